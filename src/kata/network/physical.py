"""Network interfaces that are hardware of the host: which PCI device one is of, and the way home for one that was away.

Sources: Documentation/ABI/testing/sysfs-class-net of the kernel; rtnetlink(7).
"""

import glob
import os
import re
import time
from contextlib import suppress
from errno import EEXIST
from typing import Final

from kata.errors import DeadlineError
from kata.network.namespace import visit_namespace
from kata.protocol.netlink.link import change_link, get_link, move_link, parse_link
from kata.sys.mount import mount_nowhere
from kata.transport.netlink import open_netlink

_PLACE = re.compile(r".*/([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])(?:/virtio[0-9]+)?/net/[^/]+")
_HOST_NAMESPACE = "/proc/1/ns/net"
_PAUSE: Final = 0.05


def find_pci_address(name: str) -> str:
    """Return the address of the PCI device that a link of the calling thread's namespace is of, "" for any other link.

    The host's /sys shows the links of its own namespace only, so this mounts one of its own. Raise OSError.
    """
    sysfs = mount_nowhere("sysfs")
    try:
        with suppress(FileNotFoundError):
            return read_place(os.readlink(f"class/net/{name}", dir_fd=sysfs))
    finally:
        os.close(sysfs)
    return ""


def read_place(path: str) -> str:
    """Return the PCI address in the place of a link in sysfs, "" where that is no PCI device or a virtio one on it."""
    found = _PLACE.fullmatch(path)
    return found[1] if found else ""


def bring_home(address: str, namespace: int, name: str, *, timeout: float, sysfs: str = "/sys") -> None:
    """Move the link of a PCI device from the host's namespace to another one, under the name that it had there.

    A driver makes a new link when it gets the device. Raise HostError, or DeadlineError where it makes none.
    """
    pattern = f"{sysfs}/bus/pci/devices/{address}"
    deadline = time.monotonic() + timeout
    while not (found := glob.glob(f"{pattern}/net/*") + glob.glob(f"{pattern}/virtio*/net/*")):
        if time.monotonic() > deadline:
            raise DeadlineError(f"the driver of the PCI device {address} made no network interface in {timeout:g} s")
        time.sleep(_PAUSE)  # sysfs tells nobody of what comes
    home = os.open(_HOST_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with visit_namespace(home), open_netlink() as netlink:
            link = netlink.ask(get_link(name=os.path.basename(found[0])), parse_link)[0]
            if link.up:
                netlink.run(change_link(link.ifindex, up=False))
            if not netlink.run(move_link(link.ifindex, namespace, name), unless={EEXIST}):
                netlink.run(move_link(link.ifindex, namespace, ""))  # somebody has taken the name there meanwhile
    finally:
        os.close(home)
