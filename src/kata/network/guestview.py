"""A pod's layout in the words of the agent's protocol. Source: upstream's types.proto, and what its agent reads."""

from collections.abc import Mapping

from kata.network.scan import Endpoint, PodLayout
from kata.protocol.guestroute import describe_route
from kata.protocol.messages import types
from kata.protocol.netlink.link import IFF_NOARP
from kata.protocol.netlink.neighbour import Neighbour
from kata.protocol.netlink.notation import format_ip, format_mac
from kata.protocol.netlink.route import RT_TABLE_MAIN
from kata.protocol.netlink.rule import encode_rule


def describe_interface(endpoint: Endpoint, path: str = "") -> types.Interface:
    """Return the guest's interface of an endpoint: the agent finds the network card by its link-layer address.

    One that is a device of the host's has the address of its maker at first, and is found by the `path` to it.
    """
    link = endpoint.link
    return types.Interface(
        device=link.name,
        name=link.name,
        IPAddresses=[
            types.IPAddress(
                family=_name_family(address.local), address=format_ip(address.local), mask=str(address.prefix)
            )
            for address in endpoint.addresses
        ],
        mtu=link.mtu,
        hwAddr=format_mac(link.address),
        devicePath=path,
        type=link.kind,
        raw_flags=link.flags & IFF_NOARP,
    )


def describe_routes(layout: PodLayout) -> list[types.Route]:
    """Return the routes of the main table, in the order that the host has them."""
    names = _name_links(layout)
    return [describe_route(route, names) for route in layout.routes if route.table == RT_TABLE_MAIN]


def describe_policy(layout: PodLayout) -> types.Policy:
    """Return the routes of other tables, and the rules."""
    names = _name_links(layout)
    routes = [describe_route(route, names) for route in layout.routes if route.table != RT_TABLE_MAIN]
    return types.Policy(routes=routes, rules=[encode_rule(rule) for rule in layout.rules])


def describe_neighbours(layout: PodLayout) -> list[types.ARPNeighbor]:
    """Return the neighbours with their state as the host has it."""
    names = _name_links(layout)
    return [_describe_neighbour(neighbour, names) for neighbour in layout.neighbours]


def _name_links(layout: PodLayout) -> dict[int, str]:
    return {endpoint.link.ifindex: endpoint.link.name for endpoint in layout.endpoints}


def _name_family(address: bytes) -> int:
    return types.IPFamily.V4 if len(address) == 4 else types.IPFamily.V6


def _describe_neighbour(neighbour: Neighbour, names: Mapping[int, str]) -> types.ARPNeighbor:
    address = types.IPAddress(family=_name_family(neighbour.destination), address=format_ip(neighbour.destination))
    return types.ARPNeighbor(
        toIPAddress=address,
        device=names[neighbour.ifindex],
        lladdr=format_mac(neighbour.address),
        state=neighbour.state,
        flags=neighbour.flags,
    )
