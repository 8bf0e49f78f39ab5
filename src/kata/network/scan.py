"""What a network plug-in has put into a pod's namespace: links with addresses, routes, neighbours."""

from collections.abc import Container
from errno import EAFNOSUPPORT, EOPNOTSUPP
from socket import AF_INET, AF_INET6
from typing import NamedTuple

from kata.network.tap import is_tap_name
from kata.protocol.netlink.address import Address, dump_addresses, parse_address
from kata.protocol.netlink.link import IFF_LOOPBACK, Link, dump_links, parse_link
from kata.protocol.netlink.neighbour import (
    NUD_PERMANENT,
    NUD_REACHABLE,
    Neighbour,
    dump_neighbours,
    parse_neighbour,
)
from kata.protocol.netlink.route import (
    AUTOMATIC,
    RT_SCOPE_LINK,
    RT_TABLE_LOCAL,
    RT_TABLE_MAIN,
    RTN_UNICAST,
    SETTABLE_KINDS,
    Route,
    dump_routes,
    parse_route,
)
from kata.protocol.netlink.rule import FRA_L3MDEV, Rule, dump_rules, parse_rule
from kata.transport.netlink import Netlink

_ETHERNET = 1
"""ARPHRD_ETHER of <linux/if_arp.h>."""

_FAMILIES = (int(AF_INET), int(AF_INET6))
_NO_SUCH_FAMILY = {EOPNOTSUPP, EAFNOSUPPORT}


# Family, priority and table of the rules that each namespace has from the start.
_RULES = {
    (int(AF_INET), 0, 255),
    (int(AF_INET), 32766, 254),
    (int(AF_INET), 32767, 253),
    (int(AF_INET6), 0, 255),
    (int(AF_INET6), 32766, 254),
}


class Endpoint(NamedTuple):
    """A link that the VM is to be connected to, of whatever kind, with the addresses that the guest is to have."""

    link: Link
    addresses: tuple[Address, ...]


class PodLayout(NamedTuple):
    """What the guest is to look like: neighbours are those of the endpoints, and routes too, or they lead nowhere.

    Routes are those of all tables but the kernel's own; `rules` say which of them is for what.
    """

    endpoints: tuple[Endpoint, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    rules: tuple[Rule, ...] = ()

    @property
    def has_policy(self) -> bool:
        """Whether somebody routes by policy."""
        made = {(rule.family, rule.priority, rule.table) for rule in self.rules}
        usual = {row for row in _RULES if any(row[0] == rule.family for rule in self.rules)}
        return made != usual or any(route.table != RT_TABLE_MAIN for route in self.routes)

    def select(self, ifindex: int) -> "PodLayout":
        """Return what goes by one link and no other."""
        own = self.restrict({ifindex})
        routes = tuple(route for route in own.routes if route.kind == RTN_UNICAST)
        return PodLayout(own.endpoints, routes, own.neighbours)

    def join(self, other: "PodLayout") -> "PodLayout":
        """Return both together."""
        return self._replace(
            endpoints=self.endpoints + other.endpoints,
            routes=self.routes + other.routes,
            neighbours=self.neighbours + other.neighbours,
        )

    def restrict(self, indexes: Container[int]) -> "PodLayout":
        """Return the part of it that concerns the links with these indexes."""
        return PodLayout(
            tuple(endpoint for endpoint in self.endpoints if endpoint.link.ifindex in indexes),
            tuple(route for route in self.routes if _leads_by(route, indexes)),
            tuple(neighbour for neighbour in self.neighbours if neighbour.ifindex in indexes),
            self.rules,
        )


def scan_namespace(netlink: Netlink, connected: Container[int] = ()) -> PodLayout:
    """Return the layout of the socket's namespace.

    Left out: loopback, taps of a VM, links that are down and have no address (tunnels that the kernel puts into every
    namespace), ports of a bridge in the namespace, and what is no Ethernet. Links that are `connected` already, by
    index, are there whatever became of them.
    """
    addresses: dict[int, list[Address]] = {}
    for address in netlink.ask(dump_addresses(), parse_address):
        if not (len(address.local) == 16 and address.scope == RT_SCOPE_LINK):
            addresses.setdefault(address.ifindex, []).append(address)
    links = [
        link
        for link in netlink.ask(dump_links(), parse_link)
        if link.ifindex in connected or _is_endpoint(link, addresses)
    ]
    indexes = {link.ifindex for link in links}
    routes = _list_routes(netlink, indexes)
    gateways = {gateway for route in routes for gateway in (route.gateway, *(hop.gateway for hop in route.hops))}
    return PodLayout(
        tuple(Endpoint(link, tuple(addresses.get(link.ifindex, ()))) for link in links),
        routes,
        _list_neighbours(netlink, indexes, gateways),
        _list_rules(netlink),
    )


def _is_endpoint(link: Link, addressed: Container[int]) -> bool:
    if is_tap_name(link.name) or link.flags & IFF_LOOPBACK or link.device_type != _ETHERNET or link.master:
        return False
    return link.up or link.ifindex in addressed


def _list_routes(netlink: Netlink, indexes: Container[int]) -> tuple[Route, ...]:
    return tuple(
        route
        for family in _FAMILIES
        for route in netlink.ask(dump_routes(family), parse_route, unless=_NO_SUCH_FAMILY)
        if route.table != RT_TABLE_LOCAL and route.kind in SETTABLE_KINDS
        if route.protocol not in AUTOMATIC and _leads_by(route, indexes)
    )


def _list_rules(netlink: Netlink) -> tuple[Rule, ...]:
    """Return the rules, but those of VRFs, which no guest has."""
    return tuple(
        rule
        for family in _FAMILIES
        for rule in netlink.ask(dump_rules(family), parse_rule, unless=_NO_SUCH_FAMILY)
        if not any(dict(rule.attributes).get(FRA_L3MDEV, b""))
    )


def _leads_by(route: Route, indexes: Container[int]) -> bool:
    """Say whether a route goes by these links only, or nowhere."""
    if route.kind != RTN_UNICAST:
        return True
    return all(ifindex in indexes for ifindex in [hop.ifindex for hop in route.hops] or [route.ifindex])


def _list_neighbours(netlink: Netlink, indexes: Container[int], gateways: Container[bytes]) -> tuple[Neighbour, ...]:
    """Return the static neighbours, and gateways whose address was found out already."""
    return tuple(
        neighbour
        for family in _FAMILIES
        for neighbour in netlink.ask(dump_neighbours(family), parse_neighbour, unless=_NO_SUCH_FAMILY)
        if neighbour.ifindex in indexes and neighbour.address
        if neighbour.state == NUD_PERMANENT or (neighbour.state == NUD_REACHABLE and neighbour.destination in gateways)
    )
