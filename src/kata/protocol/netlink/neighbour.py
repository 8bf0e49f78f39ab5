"""Neighbours: what link-layer address an IP address on a link has (ARP for IPv4, neighbour discovery for IPv6).

    u8 family  3 bytes -  i32 link index  u16 state (NUD_*)  u8 flags (NTF_*)  u8 type (RTN_*)
    attributes NDA_*

Source: rtnetlink(7), <linux/neighbour.h>.
"""

import struct
from typing import NamedTuple

from kata.protocol.netlink.attribute import encode_attribute, parse_payload
from kata.protocol.netlink.message import NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Request
from kata.protocol.netlink.notation import find_family, format_ip

RTM_NEWNEIGH = 28
RTM_GETNEIGH = 30

NUD_REACHABLE = 0x02
NUD_PERMANENT = 0x80
NTF_ROUTER = 0x80

_NDA_DST = 1
_NDA_LLADDR = 2

_HEADER = struct.Struct("=BxxxiHBB")


class Neighbour(NamedTuple):
    """The IP address `destination` (4 or 16 bytes) on the link with this ifindex has the link-layer `address`."""

    ifindex: int
    destination: bytes
    address: bytes = b""
    state: int = NUD_PERMANENT
    flags: int = 0
    kind: int = 0


def encode_neighbour(neighbour: Neighbour) -> bytes:
    """Return a neighbour as the kernel sends it."""
    family = find_family(neighbour.destination)
    parts = [
        _HEADER.pack(family, neighbour.ifindex, neighbour.state, neighbour.flags, neighbour.kind),
        encode_attribute(_NDA_DST, neighbour.destination),
    ]
    if neighbour.address:
        parts.append(encode_attribute(_NDA_LLADDR, neighbour.address))
    return b"".join(parts)


def parse_neighbour(payload: bytes) -> Neighbour:
    """Return the neighbour in the payload of an RTM_NEWNEIGH message; a malformed one is a ProtocolError."""
    attributes = parse_payload(payload, _HEADER.size, "neighbour")
    _family, ifindex, state, flags, kind = _HEADER.unpack_from(payload)
    return Neighbour(ifindex, attributes.get(_NDA_DST, b""), attributes.get(_NDA_LLADDR, b""), state, flags, kind)


def dump_neighbours(family: int) -> Request:
    """Ask for the neighbours of one family (AF_INET or AF_INET6) on all links."""
    return Request(RTM_GETNEIGH, NLM_F_DUMP, _HEADER.pack(family, 0, 0, 0, 0), "list neighbours")


def add_neighbour(neighbour: Neighbour, *, replace: bool = False) -> Request:
    """Ask for a new neighbour. If its IP address is known on the link, it is replaced, or the kernel says EEXIST."""
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    what = f"add neighbour {format_ip(neighbour.destination)} of link {neighbour.ifindex}"
    return Request(RTM_NEWNEIGH, flags, encode_neighbour(neighbour), what)
