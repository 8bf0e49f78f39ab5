"""Network links (interfaces) of rtnetlink.

    u8 family  u8 -  u16 device type (ARPHRD_*)  i32 index  u32 flags (IFF_*)  u32 which flags to change
    attributes IFLA_*

Source: rtnetlink(7), <linux/if_link.h>, <linux/if.h>.
"""

import struct
from socket import AF_INET6
from typing import NamedTuple

from kata.errors import UsageError
from kata.protocol.netlink.attribute import (
    encode_attribute,
    encode_number,
    encode_text,
    nest_attributes,
    parse_attributes,
    parse_payload,
    read_number,
    read_text,
)
from kata.protocol.netlink.message import NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Request

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_SETLINK = 19

IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_NOARP = 0x80
IFF_ALLMULTI = 0x200

LONGEST_NAME = 15

_IFLA_ADDRESS = 1
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_LINK = 5
_IFLA_MASTER = 10
_IFLA_LINKINFO = 18
_IFLA_AF_SPEC = 26
_IFLA_NET_NS_FD = 28
_IFLA_EXT_MASK = 29
_IFLA_INET6_ADDR_GEN_MODE = 8
_IN6_ADDR_GEN_MODE_NONE = 1
_IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2
_IFLA_MACVLAN_MODE = 1
_MACVLAN_MODE_BRIDGE = 4
_RTEXT_FILTER_SKIP_STATS = 8

_HEADER = struct.Struct("=BxHiII")
LINK_HEADER_SIZE = _HEADER.size


class Link(NamedTuple):
    """One interface. `mtu` in bytes; `address` is the link-layer address, b"" if the link has none.

    `kind` is the driver's word ("veth", "macvtap", "tun"), "" for hardware. `lower` is the index of the link below a
    VLAN or macvlan, or of a veth's peer; `master` that of the bridge or bond it belongs to; 0 for none.
    """

    ifindex: int
    name: str
    flags: int = 0
    mtu: int = 0
    address: bytes = b""
    kind: str = ""
    lower: int = 0
    master: int = 0
    device_type: int = 0

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)


def encode_link(link: Link, change: int = 0) -> bytes:
    """Return a link as the kernel sends it. `change` masks the flags that a request sets."""
    parts = [_HEADER.pack(0, link.device_type, link.ifindex, link.flags, change)]
    if link.name:
        parts.append(encode_text(_IFLA_IFNAME, _check_name(link.name)))
    if link.mtu:
        parts.append(encode_number(_IFLA_MTU, link.mtu))
    if link.address:
        parts.append(encode_attribute(_IFLA_ADDRESS, link.address))
    if link.lower:
        parts.append(encode_number(_IFLA_LINK, link.lower))
    if link.master:
        parts.append(encode_number(_IFLA_MASTER, link.master))
    if link.kind:
        parts.append(nest_attributes(_IFLA_LINKINFO, [encode_text(_IFLA_INFO_KIND, link.kind)]))
    return b"".join(parts)


def parse_link(payload: bytes) -> Link:
    """Return the link in the payload of an RTM_NEWLINK message; a malformed one is a ProtocolError."""
    attributes = parse_payload(payload, _HEADER.size, "link")
    _family, device_type, ifindex, flags, _change = _HEADER.unpack_from(payload)
    details = parse_attributes(attributes.get(_IFLA_LINKINFO, b""))
    return Link(
        ifindex=ifindex,
        name=read_text(attributes, _IFLA_IFNAME),
        flags=flags,
        mtu=read_number(attributes, _IFLA_MTU),
        address=attributes.get(_IFLA_ADDRESS, b""),
        kind=read_text(details, _IFLA_INFO_KIND),
        lower=read_number(attributes, _IFLA_LINK),
        master=read_number(attributes, _IFLA_MASTER),
        device_type=device_type,
    )


def dump_links() -> Request:
    """Ask for all links, without their counters, which are the largest part of a dump."""
    payload = _HEADER.pack(0, 0, 0, 0, 0) + encode_number(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    return Request(RTM_GETLINK, NLM_F_DUMP, payload, "list links")


def get_link(*, ifindex: int = 0, name: str = "") -> Request:
    """Ask for one link by its index or its name. The kernel says ENODEV if there is none."""
    payload = encode_link(Link(ifindex, name)) + encode_number(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    return Request(RTM_GETLINK, 0, payload, f"find link {name or ifindex}")


def change_link(
    ifindex: int,
    *,
    name: str = "",
    up: bool | None = None,
    arp: bool | None = None,
    all_multicast: bool | None = None,
    mtu: int = 0,
    address: bytes = b"",
) -> Request:
    """Ask for a change of what is given; "", None, 0 and b"" leave things as they are.

    `arp=False` sets IFF_NOARP, `all_multicast` IFF_ALLMULTI. Kernels before 6.2 rename a link only while it is down,
    and many drivers take a new address only then.
    """
    flags = change = 0
    words = []
    if up is not None:
        change |= IFF_UP
        flags |= IFF_UP if up else 0
        words.append("up" if up else "down")
    if arp is not None:
        change |= IFF_NOARP
        flags |= 0 if arp else IFF_NOARP
        words.append(f"arp {'on' if arp else 'off'}")
    if all_multicast is not None:
        change |= IFF_ALLMULTI
        flags |= IFF_ALLMULTI if all_multicast else 0
        words.append(f"allmulticast {'on' if all_multicast else 'off'}")
    if name:
        words.append(f"name {name}")
    if mtu:
        words.append(f"mtu {mtu}")
    if address:
        words.append(f"address {address.hex(':')}")
    payload = encode_link(Link(ifindex, name, flags, mtu, address), change)
    return Request(RTM_SETLINK, 0, payload, f"set link {ifindex} {' '.join(words)}")


def move_link(ifindex: int, namespace: int, name: str) -> Request:
    """Ask for a link to be moved to the namespace that a descriptor has open, with a new name unless that is ""."""
    payload = encode_link(Link(ifindex, name)) + encode_number(_IFLA_NET_NS_FD, namespace)
    return Request(RTM_SETLINK, 0, payload, f"move link {ifindex} to another namespace as {name or 'it is called'}")


def add_macvtap(lower: int, name: str, mtu: int) -> Request:
    """Ask for a macvtap on the link with the index `lower`, in bridge mode. The kernel says EEXIST for a known name."""
    mode = nest_attributes(_IFLA_INFO_DATA, [encode_number(_IFLA_MACVLAN_MODE, _MACVLAN_MODE_BRIDGE)])
    details = nest_attributes(_IFLA_LINKINFO, [encode_text(_IFLA_INFO_KIND, "macvtap"), mode])
    payload = encode_link(Link(0, name, mtu=mtu, lower=lower)) + details
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, payload, f"add macvtap {name} to link {lower}")


def delete_link(ifindex: int) -> Request:
    """Ask for the removal of a link. The kernel says ENODEV if there is none."""
    return Request(RTM_DELLINK, 0, encode_link(Link(ifindex, "")), f"delete link {ifindex}")


def withhold_ipv6_address(ifindex: int) -> Request:
    """Ask that a link get no link-local address by itself, so that it says nothing of its own on the wire.

    The kernel says EAFNOSUPPORT where it has no IPv6.
    """
    mode = encode_attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_IN6_ADDR_GEN_MODE_NONE]))
    families = nest_attributes(_IFLA_AF_SPEC, [nest_attributes(int(AF_INET6), [mode])])
    payload = _HEADER.pack(0, 0, ifindex, 0, 0) + families
    return Request(RTM_SETLINK, 0, payload, f"withhold an IPv6 address from link {ifindex}")


def _check_name(name: str) -> str:
    if len(name.encode("utf-8", "surrogateescape")) > LONGEST_NAME or "\0" in name:
        raise UsageError(
            f"{name!r} cannot name a network interface", hint=f"the kernel takes at most {LONGEST_NAME} bytes"
        )
    return name
