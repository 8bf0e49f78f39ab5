"""Routes.

    u8 family  u8 destination bits  u8 source bits  u8 TOS
    u8 table  u8 protocol (RTPROT_*)  u8 scope (RT_SCOPE_*)  u8 type (RTN_*)  u32 flags (RTNH_F_*, RTM_F_*)
    attributes RTA_*

Source: rtnetlink(7), <linux/rtnetlink.h>.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kata.errors import ProtocolError
from kata.protocol.netlink.attribute import (
    encode_attribute,
    encode_number,
    nest_attributes,
    parse_attributes,
    parse_payload,
    read_number,
)
from kata.protocol.netlink.message import NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Request
from kata.protocol.netlink.notation import find_family, find_width, format_ip

RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26

RT_TABLE_MAIN = 254
RT_TABLE_LOCAL = 255
RTPROT_REDIRECT = 1
RTPROT_KERNEL = 2
RTPROT_BOOT = 3
RTPROT_STATIC = 4
RTPROT_RA = 9
AUTOMATIC = frozenset({RTPROT_REDIRECT, RTPROT_KERNEL, RTPROT_RA})
"""Origins of routes that come and go with addresses, redirects and router advertisements: each kernel makes its own."""

RT_SCOPE_UNIVERSE = 0
RT_SCOPE_LINK = 253
RTN_UNICAST = 1
RTN_BLACKHOLE = 6
RTN_UNREACHABLE = 7
RTN_PROHIBIT = 8
RTN_THROW = 9
RTNH_F_PERVASIVE = 0x2
RTNH_F_ONLINK = 0x4

# The kernel reports the state of a route in the same field and refuses some of those bits in a request.
SETTABLE_FLAGS = RTNH_F_PERVASIVE | RTNH_F_ONLINK
# Kinds of routes that people make; the others come with addresses.
SETTABLE_KINDS = frozenset((RTN_UNICAST, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT, RTN_THROW))

_RTA_DST = 1
_RTA_SRC = 2
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_PRIORITY = 6
_RTA_PREFSRC = 7
_RTA_METRICS = 8
_RTA_MULTIPATH = 9
_RTA_TABLE = 15
_RTA_VIA = 18
_RTAX_MTU = 2

_HEADER = struct.Struct("=BBBBBBBBI")
_FAMILY = struct.Struct("=H")
# length with the attributes that follow, RTNH_F_*, weight less one, link index.
_HOP = struct.Struct("=HBBi")


class Hop(NamedTuple):
    """One of several next hops of a route. `weight`, 1 to 256, is its share of the packets beside the others'."""

    ifindex: int
    gateway: bytes = b""
    flags: int = 0
    weight: int = 1


class Route(NamedTuple):
    """A route, with at most one next hop, or with `hops`: `gateway` and `ifindex` are empty then.

    `family` is AF_INET or AF_INET6. `destination` with `prefix` is the network, b"" with 0 the default route.
    `gateway` may be IPv6 in an IPv4 route (RFC 5549). `source` is the preferred source address, `origin` with
    `origin_prefix` the network of senders it applies to (IPv6 only). `ifindex` is the link's index. `priority` is what
    ip(8) calls metric. `mtu` in bytes, 0 for the link's. `kind` is RTN_*: those but RTN_UNICAST lead nowhere.
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
    hops: tuple[Hop, ...] = ()


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
        parts.append(_encode_gateway(route.family, route.gateway))
    if route.hops:
        parts.append(encode_attribute(_RTA_MULTIPATH, b"".join(_encode_hop(route.family, hop) for hop in route.hops)))
    if route.ifindex:
        parts.append(encode_number(_RTA_OIF, route.ifindex))
    if route.priority:
        parts.append(encode_number(_RTA_PRIORITY, route.priority))
    if route.mtu:
        parts.append(nest_attributes(_RTA_METRICS, [encode_number(_RTAX_MTU, route.mtu)]))
    return b"".join(parts)


def _encode_gateway(family: int, gateway: bytes) -> bytes:
    own = find_family(gateway)
    if own == family:
        return encode_attribute(_RTA_GATEWAY, gateway)
    return encode_attribute(_RTA_VIA, _FAMILY.pack(own) + gateway)


def _encode_hop(family: int, hop: Hop) -> bytes:
    gateway = _encode_gateway(family, hop.gateway) if hop.gateway else b""
    return _HOP.pack(_HOP.size + len(gateway), hop.flags & 0xFF, hop.weight - 1, hop.ifindex) + gateway


def _parse_hops(data: bytes) -> Iterator[Hop]:
    while data:
        if len(data) < _HOP.size:
            raise ProtocolError(f"netlink route message ends within a next hop, after {len(data)} bytes")
        length, flags, weight, ifindex = _HOP.unpack_from(data)
        if not _HOP.size <= length <= len(data):
            raise ProtocolError(f"netlink next hop says {length} bytes, {len(data)} are left")
        attributes = parse_attributes(data[:length], _HOP.size)
        yield Hop(ifindex, _read_gateway(attributes), flags, weight + 1)
        data = data[length + -length % 4 :]


def _read_gateway(attributes: Mapping[int, bytes]) -> bytes:
    return attributes.get(_RTA_GATEWAY, attributes.get(_RTA_VIA, b"")[_FAMILY.size :])


def parse_route(payload: bytes) -> Route:
    """Return the route in the payload of an RTM_NEWROUTE message; a malformed one is a ProtocolError."""
    attributes = parse_payload(payload, _HEADER.size, "route")
    family, prefix, origin_prefix, tos, table, protocol, scope, kind, flags = _HEADER.unpack_from(payload)
    return Route(
        family=family,
        destination=attributes.get(_RTA_DST, b""),
        prefix=prefix,
        gateway=_read_gateway(attributes),
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
        hops=tuple(_parse_hops(attributes.get(_RTA_MULTIPATH, b""))),
    )


def dump_routes(family: int) -> Request:
    """Ask for the routes of one family in all tables. Pick a table from the answers."""
    return Request(RTM_GETROUTE, NLM_F_DUMP, _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), "list routes")


def add_route(route: Route, *, replace: bool = False) -> Request:
    """Ask for a new route. One with the same destination, TOS and priority is replaced, or the kernel says EEXIST."""
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    payload = encode_route(_keep_settable(route))
    return Request(RTM_NEWROUTE, flags, payload, f"add route {format_route(route)}")


def delete_route(route: Route) -> Request:
    """Ask for the removal of a route. What is given must match it; the kernel says ESRCH if nothing does."""
    payload = encode_route(_keep_settable(route))
    return Request(RTM_DELROUTE, 0, payload, f"delete route {format_route(route)}")


def _keep_settable(route: Route) -> Route:
    hops = tuple(hop._replace(flags=hop.flags & SETTABLE_FLAGS) for hop in route.hops)
    return route._replace(flags=route.flags & SETTABLE_FLAGS, hops=hops)


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
