"""Routes.

    u8 family  u8 destination bits  u8 source bits  u8 TOS
    u8 table  u8 protocol (RTPROT_*)  u8 scope (RT_SCOPE_*)  u8 type (RTN_*)  u32 flags (RTNH_F_*, RTM_F_*)
    attributes RTA_*

Source: rtnetlink(7), <linux/rtnetlink.h>.
"""

import struct
from typing import NamedTuple

from kata.errors import ProtocolError
from kata.protocol.netlink.attribute import (
    encode_attribute,
    encode_number,
    nest_attributes,
    parse_attributes,
    read_number,
)
from kata.protocol.netlink.message import NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Request
from kata.protocol.netlink.notation import find_family, find_width, format_ip

RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26

RT_TABLE_MAIN = 254
RTPROT_REDIRECT = 1
RTPROT_KERNEL = 2
RTPROT_BOOT = 3
RTPROT_STATIC = 4
RTPROT_RA = 9
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_LINK = 253
RT_SCOPE_HOST = 254
RTN_UNICAST = 1
RTNH_F_PERVASIVE = 0x2
RTNH_F_ONLINK = 0x4

# The kernel reports the state of a route in the same field and refuses some of those bits in a request.
SETTABLE_FLAGS = RTNH_F_PERVASIVE | RTNH_F_ONLINK

_RTA_DST = 1
_RTA_SRC = 2
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_PRIORITY = 6
_RTA_PREFSRC = 7
_RTA_METRICS = 8
_RTA_TABLE = 15
_RTA_VIA = 18
_RTAX_MTU = 2

_HEADER = struct.Struct("=BBBBBBBBI")
_FAMILY = struct.Struct("=H")


class Route(NamedTuple):
    """A route with at most one next hop.

    `family` is AF_INET or AF_INET6. `destination` with `prefix` is the network, b"" with 0 the default route.
    `gateway` may be IPv6 in an IPv4 route (RFC 5549). `source` is the preferred source address, `origin` with
    `origin_prefix` the network of senders it applies to (IPv6 only). `ifindex` is the link's index. `priority` is what
    ip(8) calls metric. `mtu` in bytes, 0 for the link's.
    """

    family: int
    destination: bytes = b""
    prefix: int = 0
    gateway: bytes = b""
    source: bytes = b""
    ifindex: int = 0
    priority: int = 0
    mtu: int = 0
    scope: int = RT_SCOPE_UNIVERSE
    flags: int = 0
    table: int = RT_TABLE_MAIN
    protocol: int = RTPROT_BOOT
    kind: int = RTN_UNICAST
    tos: int = 0
    origin: bytes = b""
    origin_prefix: int = 0


def encode_route(route: Route) -> bytes:
    """Return a route as the kernel sends it."""
    parts = [
        _HEADER.pack(
            route.family,
            route.prefix,
            route.origin_prefix,
            route.tos,
            route.table if route.table <= 0xFF else 0,
            route.protocol,
            route.scope,
            route.kind,
            route.flags,
        ),
        encode_number(_RTA_TABLE, route.table),
    ]
    for kind, address in ((_RTA_DST, route.destination), (_RTA_SRC, route.origin), (_RTA_PREFSRC, route.source)):
        if address:
            parts.append(encode_attribute(kind, address))
    if route.gateway:
        family = find_family(route.gateway)
        if family == route.family:
            parts.append(encode_attribute(_RTA_GATEWAY, route.gateway))
        else:
            parts.append(encode_attribute(_RTA_VIA, _FAMILY.pack(family) + route.gateway))
    if route.ifindex:
        parts.append(encode_number(_RTA_OIF, route.ifindex))
    if route.priority:
        parts.append(encode_number(_RTA_PRIORITY, route.priority))
    if route.mtu:
        parts.append(nest_attributes(_RTA_METRICS, [encode_number(_RTAX_MTU, route.mtu)]))
    return b"".join(parts)


def parse_route(payload: bytes) -> Route:
    """Return the route in the payload of an RTM_NEWROUTE message; a malformed one is a ProtocolError.

    Of a route with several next hops none is reported.
    """
    if len(payload) < _HEADER.size:
        raise ProtocolError(f"netlink route message of {len(payload)} bytes, at least {_HEADER.size} belong there")
    family, prefix, origin_prefix, tos, table, protocol, scope, kind, flags = _HEADER.unpack_from(payload)
    attributes = parse_attributes(payload, _HEADER.size)
    via = attributes.get(_RTA_VIA, b"")
    return Route(
        family=family,
        destination=attributes.get(_RTA_DST, b""),
        prefix=prefix,
        gateway=attributes.get(_RTA_GATEWAY, via[_FAMILY.size :]),
        source=attributes.get(_RTA_PREFSRC, b""),
        ifindex=read_number(attributes, _RTA_OIF),
        priority=read_number(attributes, _RTA_PRIORITY),
        mtu=read_number(parse_attributes(attributes.get(_RTA_METRICS, b"")), _RTAX_MTU),
        scope=scope,
        flags=flags,
        table=read_number(attributes, _RTA_TABLE) or table,
        protocol=protocol,
        kind=kind,
        tos=tos,
        origin=attributes.get(_RTA_SRC, b""),
        origin_prefix=origin_prefix,
    )


def dump_routes(family: int) -> Request:
    """Ask for the routes of one family in all tables. Pick a table from the answers."""
    return Request(RTM_GETROUTE, NLM_F_DUMP, _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), "list routes")


def add_route(route: Route, *, replace: bool = False) -> Request:
    """Ask for a new route. One with the same destination, TOS and priority is replaced, or the kernel says EEXIST."""
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    payload = encode_route(route._replace(flags=route.flags & SETTABLE_FLAGS))
    return Request(RTM_NEWROUTE, flags, payload, f"add route {format_route(route)}")


def delete_route(route: Route) -> Request:
    """Ask for the removal of a route. What is given must match it; the kernel says ESRCH if nothing does."""
    payload = encode_route(route._replace(flags=route.flags & SETTABLE_FLAGS))
    return Request(RTM_DELROUTE, 0, payload, f"delete route {format_route(route)}")


def format_route(route: Route) -> str:
    """Return the route in the manner of ip(8), with the link's index in place of its name."""
    words = [f"{format_ip(route.destination or bytes(find_width(route.family) // 8))}/{route.prefix}"]
    if route.gateway:
        words.append(f"via {format_ip(route.gateway)}")
    if route.ifindex:
        words.append(f"on link {route.ifindex}")
    if route.source:
        words.append(f"from {format_ip(route.source)}")
    return " ".join(words)
