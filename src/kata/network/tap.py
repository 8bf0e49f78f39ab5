"""Tap devices: Ethernet links whose other end is a descriptor that a VMM reads and writes.

A tap goes with its last descriptor, so that nothing is left of it when its VMM has ended, however that came; but for
one that is kept for a VMM that opens it by name.
Source: Documentation/networking/tuntap.rst in the kernel tree; <linux/if_tun.h>.
"""

import errno
import fcntl
import os
import struct
from contextlib import suppress

from kata.errors import HostError, StateError

LARGEST_MTU = 65521
"""What the kernel lets a tap have, header of Ethernet apart. It carries larger packets that are redirected to it."""

_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_TUNSETOWNER = 0x400454CC
_TUNGETIFF = 0x800454D2
_IFF_TAP = 0x0002
_IFF_MULTI_QUEUE = 0x0100
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFREQ = struct.Struct("16sH22x")


def name_tap(index: int) -> str:
    """Return the name of the tap of a pod's endpoint with this number. Upstream's, so that its tools know it."""
    return f"tap{index}_kata"


def is_tap_name(name: str) -> bool:
    return name.startswith("tap") and name.endswith("_kata")


def set_up_queue(descriptor: int, name: str, queues: int) -> None:
    """Make a descriptor one of the `queues` of the tap, or macvtap, `name`. Raise OSError.

    Packets carry the header of virtio-net, by which a guest leaves checksums and segmentation to the host.
    """
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if queues > 1 else 0)
    fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))


def open_tap(name: str, queues: int = 1) -> tuple[int, ...]:
    """Make a tap in the calling thread's network namespace and return a descriptor for each queue.

    Raise StateError where the name is taken, and HostError.
    """
    opened: list[int] = []
    try:
        for _ in range(queues):
            opened.append(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
            set_up_queue(opened[-1], name, queues)
    except OSError as error:
        for descriptor in opened:
            os.close(descriptor)
        if error.errno == errno.EBUSY:
            raise StateError(
                f"the network namespace has a device {name} already; another VM is connected to it",
                hint="a container of a VM cannot join the network of another container; put both into one pod",
            ) from error
        hint = "load the module tun" if not os.path.exists(_DEVICE) else None
        raise HostError(f"tap {name} cannot be made: {error.strerror}", hint=hint) from error
    return tuple(opened)


def keep_tap(descriptor: int, owner: int) -> str:
    """Let go of a tap with one queue, and keep it for a process of this user to open by name, until `drop_tap`.

    The descriptor is of /dev/null then, so that whoever owns it closes it as ever. Return the name. Raise HostError.
    """
    try:
        request = fcntl.ioctl(descriptor, _TUNGETIFF, bytes(_IFREQ.size))
        name: str = _IFREQ.unpack(request)[0].rstrip(b"\0").decode()
        fcntl.ioctl(descriptor, _TUNSETOWNER, owner)
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.dup2(nothing, descriptor, inheritable=False)
        finally:
            os.close(nothing)
    except OSError as error:
        raise HostError(f"a tap cannot be kept for the VMM to open: {error.strerror}") from error
    return name


def drop_tap(name: str) -> None:
    """Take away a tap that was kept, if nobody has it open. May be repeated."""
    with suppress(StateError):
        [descriptor] = open_tap(name)
        try:
            fcntl.ioctl(descriptor, _TUNSETPERSIST, 0)
        finally:
            os.close(descriptor)
