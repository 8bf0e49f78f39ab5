"""The guest's network: what UpdateInterface, ListInterfaces and AddARPNeighbors do.

The host's network plug-in decided everything; these functions only repeat it in the guest. A request is read as a
whole before anything is changed, so that a malformed one changes nothing.

All take a kata.transport.netlink.Netlink of the guest's namespace, and raise UsageError for what cannot be read,
NotFoundError for an interface that is not there and HostError for what the kernel refuses.
"""

import errno
import glob
import os
from collections.abc import Iterable
from typing import Any

from kata.agent.pci import make_pci_pattern, rescan_pci
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
from kata.protocol.netlink.link import IFF_NOARP, LONGEST_NAME, Link, change_link, dump_links, parse_link
from kata.protocol.netlink.neighbour import NUD_PERMANENT, Neighbour, add_neighbour
from kata.protocol.netlink.notation import (
    fill_network,
    format_ip,
    format_mac,
    parse_ip,
    parse_mac,
    parse_prefix,
)
from kata.protocol.netlink.route import RT_SCOPE_LINK
from kata.sys.file import read_text
from kata.transport.netlink import Netlink

_SYSFS = "/sys/class/net"


def find_interface(interface: types.Interface) -> str | None:
    """The name in /sys/class/net of the interface that `update_interface` would change, None before it is there."""
    if interface.devicePath:
        return find_device_interface(interface.devicePath)
    for name in os.listdir(_SYSFS):
        if name == interface.name or read_text(f"{_SYSFS}/{name}/address").strip() == interface.hwAddr.lower():
            return name
    return None


def find_device_interface(path: str) -> str | None:
    """The name of the interface of a PCI device, which the kernel looks for; None without one. Raise UsageError."""
    place = make_pci_pattern(path)
    for _ in range(2):
        if found := glob.glob(f"{place}/net/*") + glob.glob(f"{place}/virtio*/net/*"):
            return os.path.basename(found[0])
        rescan_pci()
    return None


def update_interface(netlink: Netlink, interface: types.Interface) -> None:
    """Give the interface with this `hwAddr` its name, MTU (0: as it is), NOARP flag and addresses, and set it up.

    Addresses that are not in the request are removed, except the link-local one that the kernel made. An interface
    that has the wanted name already gets the other's old name. With a `devicePath`, PCI slots from the root bus down,
    it is the interface of that device, whatever address it has. If no interface has the address, the one with the name
    gets it: a VM restored from a template has the network card of the VM that the template was made of.
    """
    mac = parse_mac(interface.hwAddr)
    addresses = [_read_address(address) for address in interface.IPAddresses]
    links = netlink.ask(dump_links(), parse_link)
    if interface.devicePath:
        own = find_device_interface(interface.devicePath)
        link = next((link for link in links if link.name == own), None)
    else:
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
    _replace_addresses(netlink, link.ifindex, [a for a in addresses if len(a.local) == 4 or speaks_ipv6(name)])


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


def _read_neighbour(neighbour: types.ARPNeighbor, by_name: dict[str, int]) -> Neighbour:
    if neighbour.toIPAddress is None or not neighbour.toIPAddress.address:
        raise UsageError(f"neighbour {neighbour.lladdr!r} on {neighbour.device!r} has no IP address")
    return Neighbour(
        ifindex=find_index(neighbour.device, by_name),
        destination=parse_ip(neighbour.toIPAddress.address),
        address=parse_mac(neighbour.lladdr) if neighbour.lladdr else b"",
        state=neighbour.state & 0xFFFF or NUD_PERMANENT,
        flags=neighbour.flags & 0xFF,
    )


def find_index(device: str, by_name: dict[str, int]) -> int:
    """Return the index of an interface."""
    try:
        return by_name[device]
    except KeyError:
        raise NotFoundError(f"no network interface is called {device!r}") from None


def speaks_ipv6(device: str) -> bool:
    """Say whether IPv6 is on for an interface."""
    return read_text(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").strip() == "0"
