"""The guest's routes and rules of policy routing: what UpdateRoutes and ListRoutes do.

A request is read as a whole before anything is changed. Errors are those of kata.agent.network.
"""

import errno
from collections.abc import Sequence
from socket import AF_INET, AF_INET6
from typing import Any

from kata.agent.network import find_index, speaks_ipv6
from kata.errors import UsageError
from kata.protocol.guestroute import describe_route
from kata.protocol.messages import types
from kata.protocol.netlink.link import IFF_LOOPBACK, dump_links, parse_link
from kata.protocol.netlink.notation import mask_network, parse_ip, parse_network
from kata.protocol.netlink.route import (
    AUTOMATIC,
    RT_TABLE_LOCAL,
    RT_TABLE_MAIN,
    RTN_UNICAST,
    RTPROT_KERNEL,
    SETTABLE_FLAGS,
    SETTABLE_KINDS,
    Hop,
    Route,
    add_route,
    delete_route,
    dump_routes,
    parse_route,
)
from kata.protocol.netlink.rule import Rule, add_rule, delete_rule, dump_rules, parse_rule
from kata.transport.netlink import Netlink

_V4 = int(AF_INET)
_V6 = int(AF_INET6)
_OURS = 75
"""RTPROT_* of what the host has put into tables other than main, and of its rules: a container's own are left alone.
<linux/rtnetlink.h> leaves the numbers from RTPROT_STATIC on to programs, and names none with this one."""

# What the kernel puts into an IPv6 route without a priority (IP6_RT_PRIO_USER); IPv4 leaves 0.
_DEFAULT_PRIORITY = {_V4: 0, _V6: 1024}
_LARGEST_WEIGHT = 256
_NO_SUCH_FAMILY = {errno.EOPNOTSUPP, errno.EAFNOSUPPORT}


def update_routes(netlink: Netlink, routes: Sequence[types.Route], policy: types.Policy | None = None) -> None:
    """Make these the routes of the main table, and with `policy` those of other tables and the rules too.

    Others are removed, except those on loopback, those that the kernel makes itself, and in other tables what did not
    come this way. Routes without a gateway are added first, because through them the gateways are reached. An IPv6
    route of an interface without IPv6 is left out.
    """
    links = netlink.ask(dump_links(), parse_link)
    names = {link.ifindex: link.name for link in links}
    by_name = {link.name: link.ifindex for link in links}
    asked = [_read_route(route, by_name) for route in routes]
    rules: list[Rule] = []
    if policy is not None:
        asked += [_read_policy_route(route, by_name) for route in policy.routes]
        rules = [parse_rule(bytes(rule)) for rule in policy.rules]
    wanted = [route for route in asked if route.family == _V4 or all(map(speaks_ipv6, _list_devices(route, names)))]
    keys = {_identify(route) for route in wanted}
    loopbacks = {link.ifindex for link in links if link.flags & IFF_LOOPBACK}
    for old in _list_routes(netlink):
        if old.table == RT_TABLE_MAIN:
            is_kept = old.protocol in AUTOMATIC or (old.kind == RTN_UNICAST and old.ifindex in loopbacks)
        else:
            is_kept = policy is None or old.protocol != _OURS
        if not is_kept and _identify(old) not in keys:
            netlink.run(delete_route(old), unless={errno.ESRCH})
    for route in sorted(wanted, key=lambda route: bool(route.gateway or route.hops)):
        _put_route(netlink, route)
    if rules:
        _update_rules(netlink, [rule._replace(protocol=_OURS) for rule in rules])


def _update_rules(netlink: Netlink, wanted: list[Rule]) -> None:
    """Make these the rules. The kernel's own go too if they are not wanted; a container's own stay."""
    known = {
        rule._replace(protocol=_OURS): rule
        for family in (_V4, _V6)
        for rule in netlink.ask(dump_rules(family), parse_rule, unless=_NO_SUCH_FAMILY)
        if rule.protocol in {_OURS, RTPROT_KERNEL}
    }
    for rule in known.keys() - set(wanted):
        netlink.run(delete_rule(known[rule]), unless={errno.ENOENT})
    for rule in wanted:
        if rule not in known:
            netlink.run(add_rule(rule), unless=_NO_SUCH_FAMILY | {errno.EEXIST})


def _put_route(netlink: Netlink, route: Route) -> None:
    if not route.hops:
        netlink.run(add_route(route, replace=True), unless={errno.EEXIST})
    elif not netlink.run(add_route(route, replace=True), unless={errno.EINVAL}):
        # A kernel without CONFIG_IP_ROUTE_MULTIPATH reaches the destination all the same, by one of the hops.
        ifindex, gateway, flags, _ = route.hops[0]
        _put_route(netlink, route._replace(hops=(), ifindex=ifindex, gateway=gateway, flags=flags))


def list_routes(netlink: Netlink) -> list[types.Route]:
    """Return the routes of the main table, in a form that `update_routes` takes."""
    names = {link.ifindex: link.name for link in netlink.ask(dump_links(), parse_link)}
    routes = [describe_route(route, names) for route in _list_routes(netlink) if route.table == RT_TABLE_MAIN]
    for route in routes:
        route.dest = route.dest or ("::/0" if route.family == types.IPFamily.V6 else "0.0.0.0/0")
    return routes


def _read_route(route: types.Route, by_name: dict[str, int]) -> Route:
    family = _V6 if route.family == types.IPFamily.V6 else _V4
    destination, prefix = parse_network(route.dest) if route.dest else (b"", 0)
    if not any(destination) and "/" not in route.dest:
        # 0.0.0.0 and :: as a destination mean the default route, not the host with that address.
        destination, prefix = b"", 0
    if destination and len(destination) != (16 if family == _V6 else 4):
        raise UsageError(f"route to {route.dest} says family {route.family}, which its destination is not of")
    if route.scope > 0xFF:
        raise UsageError(f"route to {route.dest or 'default'} has scope {route.scope}, which is more than 255")
    source, origin, origin_prefix = _read_source(route, family)
    kind = route.kind or RTN_UNICAST
    if kind not in SETTABLE_KINDS:
        raise UsageError(f"route to {route.dest or 'default'} is of the kind {kind}, which nobody can ask for")
    leads_by_one = kind == RTN_UNICAST and not route.hops
    return Route(
        family=family,
        destination=mask_network(destination, prefix),
        prefix=prefix,
        gateway=parse_ip(route.gateway) if route.gateway else b"",
        source=source,
        ifindex=find_index(route.device, by_name) if leads_by_one else 0,
        priority=route.priority,
        mtu=route.mtu,
        scope=route.scope,
        flags=route.flags & SETTABLE_FLAGS,
        kind=kind,
        tos=route.tos & 0xFF,
        origin=origin,
        origin_prefix=origin_prefix,
        hops=tuple(_read_hop(hop, by_name) for hop in route.hops) if kind == RTN_UNICAST else (),
    )


def _read_policy_route(route: types.Route, by_name: dict[str, int]) -> Route:
    if route.table in {0, RT_TABLE_MAIN, RT_TABLE_LOCAL}:
        raise UsageError(f"route to {route.dest or 'default'} is for the table {route.table}, not for one of policies")
    return _read_route(route, by_name)._replace(table=route.table, protocol=_OURS)


def _read_hop(hop: types.NextHop, by_name: dict[str, int]) -> Hop:
    return Hop(
        ifindex=find_index(hop.device, by_name),
        gateway=parse_ip(hop.gateway) if hop.gateway else b"",
        flags=hop.flags & SETTABLE_FLAGS,
        weight=min(max(hop.weight, 1), _LARGEST_WEIGHT),
    )


def _read_source(route: types.Route, family: int) -> tuple[bytes, bytes, int]:
    """Return the preferred source, and the network of senders with its prefix length: one of the two is empty."""
    if not route.source:
        return b"", b"", 0
    address, prefix = parse_network(route.source)
    if len(address) != (16 if family == _V6 else 4):
        raise UsageError(f"route to {route.dest or 'default'} has the source {route.source} of another family")
    if prefix in {0, len(address) * 8}:
        return address if any(address) else b"", b"", 0
    if family == _V4:
        raise UsageError(
            f"route to {route.dest or 'default'} is for senders in {route.source}, which IPv4 routes cannot express",
            hint="give the address that the guest sends from, without a prefix length",
        )
    return b"", mask_network(address, prefix), prefix


def _list_routes(netlink: Netlink) -> list[Route]:
    """Return the routes of all tables but the kernel's own."""
    return [
        route
        for family in (_V4, _V6)
        for route in netlink.ask(dump_routes(family), parse_route, unless=_NO_SUCH_FAMILY)
        if route.table != RT_TABLE_LOCAL and route.kind in SETTABLE_KINDS
    ]


def _identify(route: Route) -> tuple[Any, ...]:
    priority = route.priority or _DEFAULT_PRIORITY[route.family]
    destination = route.destination if route.prefix else b""
    # IPv6 shows a route that leads nowhere as one by the loopback interface.
    ifindex = route.ifindex if route.kind == RTN_UNICAST else 0
    hops = tuple((hop.gateway, hop.ifindex, hop.weight) for hop in route.hops)
    where = (route.table, route.family, destination, route.prefix, route.tos, priority)
    return (*where, route.kind, route.gateway, ifindex, hops)


def _list_devices(route: Route, names: dict[int, str]) -> list[str]:
    """Return the interfaces that a route leads by."""
    indexes = [hop.ifindex for hop in route.hops] or [route.ifindex]
    return [names[index] for index in indexes if index]
