"""The socket and the codecs against the kernel, with ip(8) as the judge."""

import errno
import socket
from collections.abc import Iterator

import pytest

from kata.errors import DeadlineError, HostError
from kata.protocol.netlink.address import Address, add_address, delete_address, dump_addresses, parse_address
from kata.protocol.netlink.link import IFF_LOOPBACK, change_link, dump_links, get_link, parse_link
from kata.protocol.netlink.neighbour import (
    NTF_ROUTER,
    NUD_PERMANENT,
    Neighbour,
    add_neighbour,
    dump_neighbours,
    parse_neighbour,
)
from kata.protocol.netlink.notation import format_ip, format_mac, parse_ip, parse_mac
from kata.protocol.netlink.route import (
    RT_SCOPE_LINK,
    RTNH_F_ONLINK,
    Route,
    add_route,
    delete_route,
    dump_routes,
    parse_route,
)
from kata.transport.netlink import Netlink, open_netlink
from netns import enter_network_namespace, read_ip, run_ip

V4 = int(socket.AF_INET)
V6 = int(socket.AF_INET6)


@pytest.fixture
def netlink() -> Iterator[Netlink]:
    """A netlink socket in a namespace with a veth pair, eth0 and far0, both up."""
    with enter_network_namespace():
        run_ip("link", "add", "eth0", "address", "02:00:5e:00:00:01", "type", "veth", "peer", "name", "far0")
        for name in ("lo", "far0", "eth0"):
            run_ip("link", "set", name, "up")
        with open_netlink() as opened:
            yield opened


def find_index(netlink: Netlink, name: str) -> int:
    return netlink.ask(get_link(name=name), parse_link)[0].ifindex


def test_links_are_listed_as_ip_lists_them(netlink: Netlink) -> None:
    links = {link.name: link for link in netlink.ask(dump_links(), parse_link)}

    rows = {row["ifname"]: row for row in read_ip("link", "show")}
    assert links.keys() == rows.keys() >= {"lo", "eth0", "far0"}
    for name, link in links.items():
        row = rows[name]
        assert (link.ifindex, link.mtu, format_mac(link.address)) == (row["ifindex"], row["mtu"], row["address"])
        assert link.kind == row.get("linkinfo", {}).get("info_kind", "")
        assert link.up == ("UP" in row["flags"])
    assert links["eth0"].lower == links["far0"].ifindex
    assert links["lo"].flags & IFF_LOOPBACK


def test_one_link_is_found_by_name_and_by_index(netlink: Netlink) -> None:
    (by_name,) = netlink.ask(get_link(name="eth0"), parse_link)

    assert netlink.ask(get_link(ifindex=by_name.ifindex), parse_link) == [by_name]


def test_a_link_that_is_not_there_is_an_error_or_nothing_as_the_caller_likes(netlink: Netlink) -> None:
    assert netlink.ask(get_link(name="eth9"), parse_link, unless={errno.ENODEV}) == []
    with pytest.raises(HostError, match=r"^the kernel refused to find link eth9: No such device") as caught:
        netlink.ask(get_link(name="eth9"), parse_link)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENODEV


def test_a_link_takes_name_mtu_mac_and_flags(netlink: Netlink) -> None:
    index = find_index(netlink, "eth0")

    netlink.run(change_link(index, up=False))
    assert "UP" not in read_ip("link", "show", "eth0")[0]["flags"]
    netlink.run(change_link(index, name="net1", mtu=1420, address=parse_mac("02:00:5e:00:00:99"), arp=False, up=True))

    (row,) = read_ip("link", "show", "net1")
    assert (row["mtu"], row["address"]) == (1420, "02:00:5e:00:00:99")
    assert {"UP", "NOARP"} <= set(row["flags"])
    netlink.run(change_link(index, arp=True))
    assert "NOARP" not in read_ip("link", "show", "net1")[0]["flags"]


@pytest.mark.parametrize(("text", "prefix"), [("192.0.2.10", 24), ("2001:db8::10", 64)])
def test_an_address_comes_and_goes(netlink: Netlink, text: str, prefix: int) -> None:
    index = find_index(netlink, "eth0")
    address = Address(index, parse_ip(text), prefix)

    netlink.run(add_address(address))
    assert not netlink.run(add_address(address), unless={errno.EEXIST})
    assert netlink.run(add_address(address, replace=True))

    (row,) = [info for info in read_ip("addr", "show", "eth0")[0]["addr_info"] if info["local"] == text]
    assert row["prefixlen"] == prefix
    listed = netlink.ask(dump_addresses(ifindex=index), parse_address)
    assert {found.ifindex for found in listed} == {index}
    (found,) = [found for found in listed if format_ip(found.local) == text]
    assert (found.prefix, found.peer) == (prefix, b"")

    netlink.run(delete_address(found))
    assert text not in {info["local"] for info in read_ip("addr", "show", "eth0")[0]["addr_info"]}


def test_addresses_are_listed_as_ip_lists_them(netlink: Netlink) -> None:
    run_ip("addr", "add", "192.0.2.1", "peer", "192.0.2.2", "dev", "eth0", "label", "eth0:p")
    run_ip("addr", "add", "198.51.100.5/24", "brd", "+", "dev", "far0")

    listed = netlink.ask(dump_addresses(), parse_address)

    ours = {(found.ifindex, format_ip(found.local), found.prefix, found.scope, found.label) for found in listed}
    scopes = {"global": 0, "link": 253, "host": 254}
    theirs = {
        (row["ifindex"], info["local"], info["prefixlen"], scopes[info["scope"]], info.get("label", ""))
        for row in read_ip("addr", "show")
        for info in row["addr_info"]
    }
    assert ours == theirs
    assert {format_ip(found.peer) for found in listed if found.peer} == {"192.0.2.2"}
    assert "198.51.100.255" in {format_ip(found.broadcast) for found in listed if found.broadcast}


def test_an_ipv4_route_keeps_all_its_parts(netlink: Netlink) -> None:
    index = find_index(netlink, "eth0")
    netlink.run(add_address(Address(index, parse_ip("192.0.2.10"), 24)))
    route = Route(
        V4, parse_ip("198.51.100.0"), 24, parse_ip("192.0.2.1"), parse_ip("192.0.2.10"), index, priority=50, mtu=1400
    )

    netlink.run(add_route(route))

    (row,) = [row for row in read_ip("route", "show") if row["dst"] == "198.51.100.0/24"]
    assert (row["gateway"], row["dev"], row["prefsrc"], row["metric"]) == ("192.0.2.1", "eth0", "192.0.2.10", 50)
    assert row["metrics"] == [{"mtu": 1400}]
    (found,) = [found for found in netlink.ask(dump_routes(V4), parse_route) if found.priority == 50]
    assert found == route
    netlink.run(delete_route(found))
    assert "198.51.100.0/24" not in {row["dst"] for row in read_ip("route", "show")}


def test_a_default_route_through_a_gateway_outside_all_networks_needs_onlink(netlink: Netlink) -> None:
    index = find_index(netlink, "eth0")
    netlink.run(add_address(Address(index, parse_ip("10.1.2.3"), 32)))
    route = Route(V4, gateway=parse_ip("169.254.1.1"), ifindex=index)

    with pytest.raises(HostError, match=r"add route 0\.0\.0\.0/0 via 169\.254\.1\.1 on link \d+: .*: Nexthop has inv"):
        netlink.run(add_route(route))
    netlink.run(add_route(route._replace(flags=RTNH_F_ONLINK)))

    (row,) = read_ip("route", "show", "default")
    assert (row["gateway"], row["flags"]) == ("169.254.1.1", ["onlink"])


def test_a_route_is_replaced_when_asked(netlink: Netlink) -> None:
    index = find_index(netlink, "eth0")
    first = Route(V4, parse_ip("203.0.113.0"), 24, ifindex=index, scope=RT_SCOPE_LINK)

    netlink.run(add_route(first))
    assert not netlink.run(add_route(first), unless={errno.EEXIST})
    netlink.run(add_route(first._replace(ifindex=find_index(netlink, "far0")), replace=True))

    assert [(row["dev"], row["scope"]) for row in read_ip("route", "show", "203.0.113.0/24")] == [("far0", "link")]


def test_an_ipv6_default_route_and_an_ipv4_route_through_ipv6(netlink: Netlink) -> None:
    index = find_index(netlink, "eth0")
    gateway = parse_ip("fe80::1")

    netlink.run(add_route(Route(V6, gateway=gateway, ifindex=index, mtu=1380)))
    netlink.run(add_route(Route(V4, parse_ip("203.0.113.0"), 24, gateway, ifindex=index)))

    (row,) = read_ip("-6", "route", "show", "default")
    assert (row["gateway"], row["metrics"]) == ("fe80::1", [{"mtu": 1380}])
    (row,) = read_ip("route", "show", "203.0.113.0/24")
    assert row["via"] == {"family": "inet6", "host": "fe80::1"}
    assert gateway in {found.gateway for found in netlink.ask(dump_routes(V4), parse_route)}


def test_routes_are_listed_as_ip_lists_them(netlink: Netlink) -> None:
    run_ip("addr", "add", "192.0.2.10/24", "dev", "eth0")
    run_ip("addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
    run_ip("route", "add", "10.0.0.0/8", "via", "192.0.2.1", "table", "1000", "proto", "static")

    for family, option in ((V4, "-4"), (V6, "-6")):
        listed = netlink.ask(dump_routes(family), parse_route)
        assert {found.family for found in listed} == {family}
        assert len(listed) == len(read_ip(option, "route", "show", "table", "all"))
    assert 1000 in {found.table for found in netlink.ask(dump_routes(V4), parse_route)}


@pytest.mark.parametrize(("text", "family"), [("192.0.2.7", V4), ("2001:db8::7", V6)])
def test_a_neighbour_stays_for_good(netlink: Netlink, text: str, family: int) -> None:
    index = find_index(netlink, "eth0")
    flags = NTF_ROUTER if family == V6 else 0
    neighbour = Neighbour(index, parse_ip(text), parse_mac("02:00:5e:00:00:07"), NUD_PERMANENT, flags)

    netlink.run(add_neighbour(neighbour))
    netlink.run(add_neighbour(neighbour, replace=True))

    (row,) = [row for row in read_ip("neigh", "show", "dev", "eth0") if row["dst"] == text]
    assert (row["lladdr"], row["state"]) == ("02:00:5e:00:00:07", ["PERMANENT"])
    (found,) = [
        found for found in netlink.ask(dump_neighbours(family), parse_neighbour) if found.destination == parse_ip(text)
    ]
    assert found._replace(kind=0) == neighbour


def test_a_dump_that_fills_many_datagrams_is_whole(netlink: Netlink) -> None:
    index = find_index(netlink, "eth0")
    for number in range(600):
        address = Address(index, bytes([10, 9, number >> 8, number & 0xFF]), 32)
        netlink.run(add_address(address))

    found = {found.local for found in netlink.ask(dump_addresses(family=V4), parse_address) if found.ifindex == index}

    assert len(found) == 600


def test_a_peer_that_never_answers_is_given_up_in_time() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with theirs, Netlink(ours, 0.05) as netlink, pytest.raises(DeadlineError, match=r"list links within 0\.05 s"):
        netlink.ask(dump_links(), parse_link)


def test_a_closed_socket_says_what_could_not_be_asked() -> None:
    netlink = open_netlink()
    netlink.close()

    with pytest.raises(HostError, match="cannot ask the kernel to list links"):
        netlink.run(dump_links())
