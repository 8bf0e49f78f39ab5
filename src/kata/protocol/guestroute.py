"""Routes in the words of the agent's protocol, for the host that sends them and for the guest that lists its own.

Source: upstream's types.proto, and what its agent reads.
"""

from collections.abc import Mapping
from socket import AF_INET

from kata.protocol.messages import types
from kata.protocol.netlink.notation import format_ip
from kata.protocol.netlink.route import RT_TABLE_MAIN, RTN_UNICAST, SETTABLE_FLAGS, Route


def describe_route(route: Route, names: Mapping[int, str]) -> types.Route:
    """Return a route, with the links' `names` by their indexes. The destination of a default route is empty."""
    source = _format_address(route.source)
    if route.origin:
        source = f"{format_ip(route.origin)}/{route.origin_prefix}"
    return types.Route(
        dest=f"{format_ip(route.destination)}/{route.prefix}" if route.destination else "",
        gateway=_format_address(route.gateway),
        device=names.get(route.ifindex, ""),
        source=source,
        scope=route.scope,
        family=types.IPFamily.V4 if route.family == AF_INET else types.IPFamily.V6,
        flags=route.flags & SETTABLE_FLAGS,
        mtu=route.mtu,
        priority=route.priority,
        kind=0 if route.kind == RTN_UNICAST else route.kind,
        tos=route.tos,
        hops=[
            types.NextHop(
                gateway=_format_address(hop.gateway),
                device=names.get(hop.ifindex, ""),
                flags=hop.flags & SETTABLE_FLAGS,
                weight=hop.weight,
            )
            for hop in route.hops
        ],
        table=0 if route.table == RT_TABLE_MAIN else route.table,
    )


def _format_address(address: bytes) -> str:
    return format_ip(address) if address else ""
