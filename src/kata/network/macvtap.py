"""The network model `macvtap`: on each link of the pod a macvtap, whose other end the VMM reads and writes.

The macvtap takes over the link-layer address by which the network knows the pod, and the link gets another one. It
keeps its IP addresses, which network plug-ins look for; but its namespace would answer to them too, so what the link
sends under its new address is dropped.

Sources: ip-link(8); drivers/net/macvtap.c and macvlan.c in the kernel tree; <linux/if_tun.h>.
"""

import os
import stat
from errno import EAFNOSUPPORT, EEXIST, EOPNOTSUPP
from typing import Final

from kata.errors import HostError, StateError
from kata.network.tap import set_up_queue
from kata.network.tcfilter import NOT_CONNECTED, make_cookie
from kata.protocol.bytecode import (
    EXIT,
    JUMP_NOT_EQUAL_32,
    LOAD_PACKET_HALF,
    LOAD_PACKET_WORD,
    MOVE,
    MOVE_IMMEDIATE,
    Program,
)
from kata.protocol.netlink.classifier import (
    add_clsact,
    delete_clsact,
    dump_egress,
    filter_egress,
    parse_program_name,
)
from kata.protocol.netlink.link import (
    Link,
    add_macvtap,
    change_link,
    delete_link,
    dump_links,
    get_link,
    parse_link,
    withhold_ipv6_address,
)
from kata.sys import bpf
from kata.sys.mount import mount_nowhere
from kata.transport.netlink import Netlink

_NO_IPV6 = {EAFNOSUPPORT, EOPNOTSUPP}
_SOURCE_MAC: Final = 6
"""Where a frame has its sender's address."""
_DROP, _GO_ON = 2, -1
"""TC_ACT_SHOT and TC_ACT_UNSPEC of <linux/pkt_cls.h>."""
_LOCAL_BIT = 0x02


def connect_macvtap(netlink: Netlink, link: Link, name: str, queues: int, sandbox: str) -> tuple[int, ...]:
    """Make a macvtap of this name on a link of the calling thread's namespace; return a descriptor for each queue.

    Raise StateError where another VM is connected to the link, and HostError. What was made until then goes with
    `release_macvtap`.
    """
    if not link.up:
        netlink.run(change_link(link.ifindex, up=True))  # a macvtap does not come up on a link that is down
    other = bytes((link.address[0] ^ _LOCAL_BIT,)) + link.address[1:]
    _silence_link(netlink, link, other, name, sandbox)
    if not netlink.run(add_macvtap(link.ifindex, name, link.mtu), unless={EEXIST}):
        raise StateError(
            f"the network namespace has a device {name} already; another VM is connected to it",
            hint="a container of a VM cannot join the network of another container; put both into one pod",
        )
    tap = netlink.ask(get_link(name=name), parse_link)[0].ifindex
    netlink.run(withhold_ipv6_address(tap), unless=_NO_IPV6)
    netlink.run(change_link(link.ifindex, address=other))
    netlink.run(change_link(tap, address=link.address))
    # Which multicast groups the guest is in nobody tells the host.
    netlink.run(change_link(tap, up=True, all_multicast=True))
    return _open_queues(name, tap, queues)


def release_macvtap(netlink: Netlink, ifindex: int, sandbox: str) -> bool:
    """Take a sandbox's macvtap off a link and give the link its address back. Return False where it has none."""
    is_ours = False
    for name in netlink.ask(dump_egress(ifindex), parse_program_name, unless=NOT_CONNECTED):
        owner, _, rest = name.partition(" ")
        if owner != make_cookie(sandbox).hex():
            continue
        is_ours = True
        mac, _, tap = rest.partition(" ")
        for link in netlink.ask(dump_links(), parse_link):
            if link.name == tap:
                netlink.run(delete_link(link.ifindex), unless=NOT_CONNECTED)
        netlink.run(change_link(ifindex, address=bytes.fromhex(mac)))
        netlink.run(delete_clsact(ifindex), unless=NOT_CONNECTED)
    return is_ours


def _silence_link(netlink: Netlink, link: Link, address: bytes, tap: str, sandbox: str) -> None:
    """Drop what the link sends under this address. The filter's name tells what `release_macvtap` has to know."""
    if not netlink.run(add_clsact(link.ifindex), unless={EEXIST}) and netlink.ask(dump_egress(link.ifindex), bytes):
        raise StateError(
            f"network interface {link.name} has an egress filter already; another VM is connected to it",
            hint="a container of a VM cannot join the network of another container; put both into one pod",
        )
    try:
        program = bpf.load_classifier(build_program(address), "kata_silence")
    except OSError as error:
        raise HostError(
            f"network interface {link.name} cannot be kept silent: {error.strerror}",
            hint='internetworking_model = "tcfilter" needs no CONFIG_BPF_SYSCALL',
        ) from error
    try:
        name = f"{make_cookie(sandbox).hex()} {link.address.hex()} {tap}"
        netlink.run(filter_egress(link.ifindex, program, name))
    except HostError as error:
        error.hint = error.hint or "load the kernel modules sch_ingress and cls_bpf"
        raise
    finally:
        os.close(program)


def build_program(address: bytes) -> bytes:
    """Return the program that drops frames whose sender has a link-layer address."""
    program = Program()
    program.add(MOVE, 6, 1)
    for code, offset, part in (
        (LOAD_PACKET_WORD, _SOURCE_MAC, address[:4]),
        (LOAD_PACKET_HALF, _SOURCE_MAC + 4, address[4:]),
    ):
        program.add(code, immediate=offset)
        program.jump(JUMP_NOT_EQUAL_32, "other", immediate=int.from_bytes(part, "big", signed=len(part) == 4))
    program.add(MOVE_IMMEDIATE, 0, immediate=_DROP)
    program.add(EXIT)
    program.mark("other")
    program.add(MOVE_IMMEDIATE, 0, immediate=_GO_ON)
    program.add(EXIT)
    return program.build()


def _open_queues(name: str, ifindex: int, queues: int) -> tuple[int, ...]:
    """Open the macvtap's character device. The host's /dev need not have it: two namespaces may number theirs alike."""
    opened: list[int] = []
    try:
        place, node = _make_node(name, ifindex)
        try:
            for _ in range(queues):
                opened.append(os.open(node, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=place))
                set_up_queue(opened[-1], name, queues)
        finally:
            os.close(place)
    except OSError as error:
        for descriptor in opened:
            os.close(descriptor)
        raise HostError(f"macvtap {name} cannot be opened: {error.strerror}") from error
    return tuple(opened)


def _make_node(name: str, ifindex: int) -> tuple[int, str]:
    """Return a directory that only its descriptor leads to, and the name of the macvtap's device in it."""
    sysfs = mount_nowhere("sysfs")
    try:
        entry = os.open(f"class/net/{name}/macvtap/tap{ifindex}/dev", os.O_RDONLY | os.O_CLOEXEC, dir_fd=sysfs)
        try:
            major, _, minor = os.read(entry, 100).decode().strip().partition(":")
        finally:
            os.close(entry)
    finally:
        os.close(sysfs)
    place = mount_nowhere("tmpfs")
    try:
        os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(int(major), int(minor)), dir_fd=place)
    except OSError:
        os.close(place)
        raise
    return place, name
