"""The guest's network: what UpdateInterface, UpdateRoutes, ListInterfaces, ListRoutes and AddARPNeighbors do.

The host's network plug-in decided everything; these functions only repeat it in the guest. A request is read as a
whole before anything is changed, so that a malformed one changes nothing.

All take a kata.transport.netlink.Netlink of the guest's namespace, and raise UsageError for what cannot be read,
NotFoundError for an interface that is not there and HostError for what the kernel refuses.
"""

import errno
import os
from collections.abc import Iterable, Sequence
from socket import AF_INET, AF_INET6
from typing import Any

from kata.errors import KataError, NotFoundError, UsageError
from kata.protocol.messages import types
from kata.protocol.netlink.address import (
    IFA_F_NODAD,
    Address,
    add_address,
    delete_address,
    dump_addresses,
    parse_address,
)
from kata.protocol.netlink.link import IFF_LOOPBACK, IFF_NOARP, LONGEST_NAME, Link, change_link, dump_links, parse_link
from kata.protocol.netlink.neighbour import NUD_PERMANENT, Neighbour, add_neighbour
from kata.protocol.netlink.notation import (
    fill_network,
    format_ip,
    format_mac,
    mask_network,
    parse_ip,
    parse_mac,
    parse_network,
    parse_prefix,
)
from kata.protocol.netlink.route import (
    RT_SCOPE_LINK,
    RT_TABLE_MAIN,
    RTN_UNICAST,
    RTPROT_KERNEL,
    RTPROT_RA,
    RTPROT_REDIRECT,
    SETTABLE_FLAGS,
    SETTABLE_KINDS,
    Hop,
    Route,
    add_route,
    delete_route,
    dump_routes,
    parse_route,
)
from kata.sys.file import read_text
from kata.transport.netlink import Netlink

_SYSFS = "/sys/class/net"
_V4 = int(AF_INET)
_V6 = int(AF_INET6)
# Routes with these origins come and go with addresses, router advertisements and redirects.
_KERNELS_OWN = {RTPROT_REDIRECT, RTPROT_KERNEL, RTPROT_RA}
# What the kernel puts into an IPv6 route without a priority (IP6_RT_PRIO_USER); IPv4 leaves 0.
_DEFAULT_PRIORITY = {_V4: 0, _V6: 1024}
_LARGEST_WEIGHT = 256
_NO_SUCH_FAMILY = {errno.EOPNOTSUPP, errno.EAFNOSUPPORT}


def start_loopback(netlink: Netlink) -> None:
    """Set the loopback interface up; the kernel gives it 127.0.0.1 and ::1."""
    for link in netlink.ask(dump_links(), parse_link):
        if link.flags & IFF_LOOPBACK:
            netlink.run(change_link(link.ifindex, up=True))


def find_interface(interface: types.Interface) -> str | None:
    """The name in /sys/class/net of the interface that `update_interface` would change, None before it is there."""
    for name in os.listdir(_SYSFS):
        if name == interface.name or read_text(f"{_SYSFS}/{name}/address").strip() == interface.hwAddr.lower():
            return name
    return None


def update_interface(netlink: Netlink, interface: types.Interface) -> None:
    """Give the interface with this `hwAddr` its name, MTU (0: as it is), NOARP flag and addresses, and set it up.

    Addresses that are not in the request are removed, except the link-local one that the kernel made. An interface
    that has the wanted name already gets the other's old name. If no interface has the address, the one with the name
    gets it: a VM restored from a template has the network card of the VM that the template was made of.
    """
    mac = parse_mac(interface.hwAddr)
    addresses = [_read_address(address) for address in interface.IPAddresses]
    links = netlink.ask(dump_links(), parse_link)
    link = _find_link_with_mac(links, mac, interface.name)
    if link is None:
        link = next((link for link in links if link.name == interface.name), None)
        if link is None:
            raise NotFoundError(
                f"no network interface has the address {interface.hwAddr} or the name {interface.name!r}",
                hint="the network card must be plugged in before it is configured",
            )
    no_arp = bool(interface.raw_flags & IFF_NOARP)
    settle = change_link(link.ifindex, mtu=interface.mtu, arp=not no_arp, up=True)
    if link.address != mac:
        _change_even_if_busy(netlink, link, address=mac)
    _take_name(netlink, link, interface.name, links)
    netlink.run(settle)
    name = interface.name or link.name
    _replace_addresses(netlink, link.ifindex, [a for a in addresses if len(a.local) == 4 or _speaks_ipv6(name)])


def update_routes(netlink: Netlink, routes: Sequence[types.Route]) -> None:
    """Make these the routes of the main table.

    Others are removed, except those on loopback and those that the kernel makes itself. Routes without a gateway are
    added first, because through them the gateways are reached. An IPv6 route of an interface without IPv6 is left out.
    """
    links = netlink.ask(dump_links(), parse_link)
    names = {link.ifindex: link.name for link in links}
    by_name = {link.name: link.ifindex for link in links}
    asked = [_read_route(route, by_name) for route in routes]
    wanted = [route for route in asked if route.family == _V4 or all(map(_speaks_ipv6, _list_devices(route, names)))]
    keys = {_identify(route) for route in wanted}
    loopbacks = {link.ifindex for link in links if link.flags & IFF_LOOPBACK}
    for old in _list_main_routes(netlink):
        is_kept = old.protocol in _KERNELS_OWN or (old.kind == RTN_UNICAST and old.ifindex in loopbacks)
        if not is_kept and _identify(old) not in keys:
            netlink.run(delete_route(old), unless={errno.ESRCH})
    for route in sorted(wanted, key=lambda route: bool(route.gateway or route.hops)):
        _put_route(netlink, route)


def _put_route(netlink: Netlink, route: Route) -> None:
    if not route.hops:
        netlink.run(add_route(route, replace=True), unless={errno.EEXIST})
    elif not netlink.run(add_route(route, replace=True), unless={errno.EINVAL}):
        # A kernel without CONFIG_IP_ROUTE_MULTIPATH reaches the destination all the same, by one of the hops.
        ifindex, gateway, flags, _ = route.hops[0]
        _put_route(netlink, route._replace(hops=(), ifindex=ifindex, gateway=gateway, flags=flags))


def add_neighbours(netlink: Netlink, neighbours: Iterable[types.ARPNeighbor]) -> None:
    """Add neighbours, or replace those that are there. State 0 means permanent."""
    by_name = {link.name: link.ifindex for link in netlink.ask(dump_links(), parse_link)}
    for neighbour in [_read_neighbour(neighbour, by_name) for neighbour in neighbours]:
        netlink.run(add_neighbour(neighbour, replace=True))


def list_interfaces(netlink: Netlink) -> list[types.Interface]:
    """Return all interfaces with their addresses, the loopback one among them."""
    addresses: dict[int, list[types.IPAddress]] = {}
    for address in netlink.ask(dump_addresses(), parse_address):
        family = types.IPFamily.V4 if len(address.local) == 4 else types.IPFamily.V6
        row = types.IPAddress(family=family, address=format_ip(address.local), mask=str(address.prefix))
        addresses.setdefault(address.ifindex, []).append(row)
    return [
        types.Interface(
            device=link.name,
            name=link.name,
            IPAddresses=addresses.get(link.ifindex, []),
            mtu=link.mtu,
            hwAddr=format_mac(link.address),
            raw_flags=link.flags & IFF_NOARP,
        )
        for link in netlink.ask(dump_links(), parse_link)
    ]


def list_routes(netlink: Netlink) -> list[types.Route]:
    """Return the routes of the main table, in a form that `update_routes` takes."""
    names = {link.ifindex: link.name for link in netlink.ask(dump_links(), parse_link)}
    return [
        types.Route(
            dest=f"{format_ip(route.destination or bytes(4 if route.family == _V4 else 16))}/{route.prefix}",
            gateway=format_ip(route.gateway) if route.gateway else "",
            device=names.get(route.ifindex, ""),
            source=format_ip(route.source) if route.source else "",
            scope=route.scope,
            family=types.IPFamily.V4 if route.family == _V4 else types.IPFamily.V6,
            flags=route.flags & SETTABLE_FLAGS,
            mtu=route.mtu,
            priority=route.priority,
            kind=0 if route.kind == RTN_UNICAST else route.kind,
            tos=route.tos,
            hops=[
                types.NextHop(
                    gateway=format_ip(hop.gateway) if hop.gateway else "",
                    device=names.get(hop.ifindex, ""),
                    flags=hop.flags & SETTABLE_FLAGS,
                    weight=hop.weight,
                )
                for hop in route.hops
            ],
        )
        for route in _list_main_routes(netlink)
    ]


def _find_link_with_mac(links: list[Link], mac: bytes, name: str) -> Link | None:
    # A VLAN shares the address of the link below it; the name then tells which one is meant.
    found = [link for link in links if link.address == mac]
    return next((link for link in found if link.name == name), found[0] if found else None)


def _take_name(netlink: Netlink, link: Link, name: str, links: list[Link]) -> None:
    if name in {"", link.name}:
        return
    holder = next((other for other in links if other.name == name), None)
    if holder is None:
        _change_even_if_busy(netlink, link, name=name)
        return
    # Not "<name>_temp": a name of 15 bytes has no room for more.
    _change_even_if_busy(netlink, holder, name=f"kata-{holder.ifindex}"[:LONGEST_NAME])
    try:
        _change_even_if_busy(netlink, link, name=name)
    except KataError:
        _change_even_if_busy(netlink, holder, name=name)
        raise
    _change_even_if_busy(netlink, holder, name=link.name)


def _change_even_if_busy(netlink: Netlink, link: Link, **what: Any) -> None:
    # Setting a link down loses its routes, so that is for kernels and drivers that insist.
    if netlink.run(change_link(link.ifindex, **what), unless={errno.EBUSY}):
        return
    netlink.run(change_link(link.ifindex, up=False))
    netlink.run(change_link(link.ifindex, **what))
    if link.up:
        netlink.run(change_link(link.ifindex, up=True))


def _replace_addresses(netlink: Netlink, ifindex: int, wanted: list[Address]) -> None:
    kept = {(address.local, address.prefix) for address in wanted}
    # Removal goes first: with the first IPv4 address of a subnet the kernel removes the later ones of that subnet.
    for old in netlink.ask(dump_addresses(ifindex=ifindex), parse_address):
        automatic = len(old.local) == 16 and old.scope == RT_SCOPE_LINK
        if (old.local, old.prefix) not in kept and not automatic:
            netlink.run(delete_address(old), unless={errno.EADDRNOTAVAIL})
    for address in wanted:
        netlink.run(add_address(address._replace(ifindex=ifindex), replace=True))


def _read_address(address: types.IPAddress) -> Address:
    local = parse_ip(address.address)
    prefix = parse_prefix(address.mask, local) if address.mask else len(local) * 8
    if len(local) == 4:
        return Address(0, local, prefix, broadcast=fill_network(local, prefix) if prefix < 31 else b"")
    # The plug-in has found the address to be free already; a second detection costs the pod a second or more,
    # during which nothing can bind to the address.
    return Address(0, local, prefix, flags=IFA_F_NODAD)


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
        ifindex=_find_index(route.device, by_name) if leads_by_one else 0,
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


def _read_hop(hop: types.NextHop, by_name: dict[str, int]) -> Hop:
    return Hop(
        ifindex=_find_index(hop.device, by_name),
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


def _read_neighbour(neighbour: types.ARPNeighbor, by_name: dict[str, int]) -> Neighbour:
    if neighbour.toIPAddress is None or not neighbour.toIPAddress.address:
        raise UsageError(f"neighbour {neighbour.lladdr!r} on {neighbour.device!r} has no IP address")
    return Neighbour(
        ifindex=_find_index(neighbour.device, by_name),
        destination=parse_ip(neighbour.toIPAddress.address),
        address=parse_mac(neighbour.lladdr) if neighbour.lladdr else b"",
        state=neighbour.state & 0xFFFF or NUD_PERMANENT,
        flags=neighbour.flags & 0xFF,
    )


def _find_index(device: str, by_name: dict[str, int]) -> int:
    try:
        return by_name[device]
    except KeyError:
        raise NotFoundError(f"no network interface is called {device!r}") from None


def _list_main_routes(netlink: Netlink) -> list[Route]:
    return [
        route
        for family in (_V4, _V6)
        for route in netlink.ask(dump_routes(family), parse_route, unless=_NO_SUCH_FAMILY)
        if route.table == RT_TABLE_MAIN and route.kind in SETTABLE_KINDS
    ]


def _identify(route: Route) -> tuple[Any, ...]:
    priority = route.priority or _DEFAULT_PRIORITY[route.family]
    destination = route.destination if route.prefix else b""
    # IPv6 shows a route that leads nowhere as one by the loopback interface.
    ifindex = route.ifindex if route.kind == RTN_UNICAST else 0
    hops = tuple((hop.gateway, hop.ifindex, hop.weight) for hop in route.hops)
    where = (route.family, destination, route.prefix, route.tos, priority)
    return (*where, route.kind, route.gateway, ifindex, hops)


def _list_devices(route: Route, names: dict[int, str]) -> list[str]:
    """Return the interfaces that a route leads by."""
    indexes = [hop.ifindex for hop in route.hops] or [route.ifindex]
    return [names[index] for index in indexes if index]


def _speaks_ipv6(device: str) -> bool:
    return read_text(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").strip() == "0"
