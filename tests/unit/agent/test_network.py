"""What the agent does to the network, in a namespace of the real kernel; ip(8) says what came of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata.agent.network import (
    add_neighbours,
    list_interfaces,
    update_interface,
)
from kata.agent.route import list_routes, update_routes
from kata.errors import HostError, NotFoundError, ProtocolError, UsageError
from kata.network.guestview import describe_policy
from kata.network.scan import scan_namespace
from kata.protocol.messages import types
from kata.transport.netlink import Netlink, open_netlink
from netns import enter_network_namespace, read_ip, run_ip

MAC = "02:00:5e:00:00:01"
OTHER_MAC = "02:00:5e:00:00:02"
NOARP = 0x80
V6 = types.IPFamily.V6


@pytest.fixture
def netlink() -> Iterator[Netlink]:
    """A netlink socket in a namespace with a down veth `ens3` of address MAC. Its peer `far0` is up."""
    with enter_network_namespace():
        add_veth("ens3", MAC, "far0")
        with open_netlink() as opened:
            yield opened


def add_veth(name: str, mac: str, peer: str) -> None:
    run_ip("link", "add", name, "address", mac, "type", "veth", "peer", "name", peer)
    run_ip("link", "set", peer, "up")


def make_interface(*addresses: str, **more: Any) -> types.Interface:
    rows = [types.IPAddress(address=text.split("/")[0], mask=text.split("/")[1]) for text in addresses]
    facts: dict[str, Any] = {"name": "eth0", "hwAddr": MAC, "mtu": 1450, "IPAddresses": rows}
    return types.Interface(**facts | more)


def find_ip_link(name: str) -> dict[str, Any]:
    return next(row for row in read_ip("addr", "show") if row["ifname"] == name)


def find_addresses(name: str) -> set[str]:
    """Return the addresses of a link except the link-local one, which the kernel makes."""
    rows = find_ip_link(name)["addr_info"]
    return {f"{row['local']}/{row['prefixlen']}" for row in rows if row["scope"] != "link"}


def find_routes(*words: str) -> set[tuple[str, str, str]]:
    """Return (destination, gateway, device) of the main table's routes that the kernel did not make."""
    rows = read_ip(*words, "route", "show")
    return {(row["dst"], row.get("gateway", ""), row["dev"]) for row in rows if row["protocol"] not in ("kernel", "ra")}


def test_an_interface_is_found_by_its_mac_and_made_what_the_host_says(netlink: Netlink) -> None:
    update_interface(netlink, make_interface("10.88.0.5/16", "2001:db8::5/64", hwAddr=MAC.upper()))

    row = find_ip_link("eth0")
    assert row["address"] == MAC
    assert row["mtu"] == 1450
    assert "UP" in row["flags"]
    assert "NOARP" not in row["flags"]
    assert find_addresses("eth0") == {"10.88.0.5/16", "2001:db8::5/64"}
    (v4,) = [info for info in row["addr_info"] if info["family"] == "inet"]
    assert v4["broadcast"] == "10.88.255.255"
    (v6,) = [info for info in row["addr_info"] if info["local"] == "2001:db8::5"]
    assert not v6.get("tentative")


def test_the_request_can_be_repeated_and_routes_stay(netlink: Netlink) -> None:
    wanted = make_interface("10.88.0.5/16")
    update_interface(netlink, wanted)
    run_ip("route", "add", "default", "via", "10.88.0.1")

    update_interface(netlink, wanted)

    assert find_addresses("eth0") == {"10.88.0.5/16"}
    assert find_routes() == {("default", "10.88.0.1", "eth0")}


def test_addresses_are_replaced_even_when_the_old_one_leads_their_subnet(netlink: Netlink) -> None:
    update_interface(netlink, make_interface("10.88.0.5/16", "10.88.0.6/16", "2001:db8::5/64"))

    update_interface(netlink, make_interface("10.88.0.6/16", "10.88.0.7/16", "2001:db8::7/64"))

    assert find_addresses("eth0") == {"10.88.0.6/16", "10.88.0.7/16", "2001:db8::7/64"}
    assert any(row["scope"] == "link" for row in find_ip_link("eth0")["addr_info"])


def test_noarp_is_set_and_taken_back(netlink: Netlink) -> None:
    update_interface(netlink, make_interface(raw_flags=NOARP))
    assert "NOARP" in find_ip_link("eth0")["flags"]

    update_interface(netlink, make_interface(raw_flags=0))
    assert "NOARP" not in find_ip_link("eth0")["flags"]


def test_no_mtu_means_the_one_it_has(netlink: Netlink) -> None:
    run_ip("link", "set", "ens3", "mtu", "1333")

    update_interface(netlink, make_interface(mtu=0))

    assert find_ip_link("eth0")["mtu"] == 1333


@pytest.mark.parametrize("name", ["eth0", "fifteen-letters"])
def test_an_interface_that_holds_the_wanted_name_gets_the_other_name(netlink: Netlink, name: str) -> None:
    add_veth(name, OTHER_MAC, "far1")
    run_ip("link", "set", name, "up")

    update_interface(netlink, make_interface("10.88.0.5/16", name=name))

    assert find_ip_link(name)["address"] == MAC
    other = find_ip_link("ens3")
    assert other["address"] == OTHER_MAC
    assert "UP" in other["flags"]


def test_two_interfaces_can_swap_their_names(netlink: Netlink) -> None:
    add_veth("eth0", OTHER_MAC, "far1")
    run_ip("link", "set", "ens3", "name", "eth1")

    update_interface(netlink, make_interface("10.88.0.5/16", name="eth0"))
    update_interface(netlink, make_interface("10.89.0.5/16", name="eth1", hwAddr=OTHER_MAC))

    assert find_addresses("eth0") == {"10.88.0.5/16"}
    assert find_addresses("eth1") == {"10.89.0.5/16"}
    assert find_ip_link("eth1")["address"] == OTHER_MAC


def test_a_restored_vm_gets_the_mac_of_its_pod(netlink: Netlink) -> None:
    run_ip("link", "set", "ens3", "up")

    update_interface(netlink, make_interface("10.88.0.5/16", name="ens3", hwAddr=OTHER_MAC))

    assert find_ip_link("ens3")["address"] == OTHER_MAC
    assert find_addresses("ens3") == {"10.88.0.5/16"}


def test_an_interface_that_is_not_there_is_named(netlink: Netlink) -> None:
    with pytest.raises(
        NotFoundError, match="no network interface has the address 02:00:5e:00:00:02 or the name 'eth7'"
    ):
        update_interface(netlink, make_interface(hwAddr=OTHER_MAC, name="eth7"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"hwAddr": "nonsense"},
        {"mtu": 1 << 32},
        {"name": "an-overlong-interface-name"},
        {"IPAddresses": [types.IPAddress(address="10.0.0.300", mask="8")]},
        {"IPAddresses": [types.IPAddress(address="10.0.0.3", mask="33")]},
    ],
)
def test_a_malformed_interface_changes_nothing(netlink: Netlink, wrong: dict[str, Any]) -> None:
    before = read_ip("addr", "show")

    with pytest.raises(UsageError):
        update_interface(netlink, make_interface("10.88.0.5/16", **wrong))

    assert read_ip("addr", "show") == before


def test_ipv6_addresses_are_left_out_where_ipv6_is_off(netlink: Netlink) -> None:
    Path("/proc/sys/net/ipv6/conf/ens3/disable_ipv6").write_text("1")

    update_interface(netlink, make_interface("10.88.0.5/16", "2001:db8::5/64"))
    update_routes(netlink, [types.Route(gateway="2001:db8::1", device="eth0", family=V6)])

    assert find_addresses("eth0") == {"10.88.0.5/16"}
    assert find_routes("-6") == set()


def test_a_gateway_comes_after_the_route_that_leads_to_it(netlink: Netlink) -> None:
    update_interface(netlink, make_interface("10.1.2.3/32"))

    update_routes(
        netlink,
        [
            types.Route(gateway="169.254.1.1", device="eth0"),
            types.Route(dest="169.254.1.1/32", device="eth0", scope=253),
        ],
    )

    assert find_routes() == {("default", "169.254.1.1", "eth0"), ("169.254.1.1", "", "eth0")}
    (row,) = read_ip("route", "show", "169.254.1.1/32")
    assert row["scope"] == "link"


def test_a_gateway_outside_all_networks_works_with_onlink(netlink: Netlink) -> None:
    update_interface(netlink, make_interface("10.1.2.3/32"))

    update_routes(netlink, [types.Route(gateway="169.254.1.1", device="eth0", flags=0x4 | 0x10)])

    (row,) = read_ip("route", "show", "default")
    assert row["flags"] == ["onlink"]


def test_mtu_source_and_ipv6_arrive(netlink: Netlink) -> None:
    update_interface(netlink, make_interface("10.88.0.5/16", "2001:db8::5/64"))

    update_routes(
        netlink,
        [
            types.Route(dest="0.0.0.0/0", gateway="10.88.0.1", device="eth0", source="10.88.0.5", mtu=1400),
            types.Route(gateway="2001:db8::1", device="eth0", family=V6, mtu=1300),
            types.Route(dest="2001:db8:1::/48", gateway="fe80::1", device="eth0", family=V6),
        ],
    )

    (row,) = read_ip("route", "show", "default")
    assert (row["gateway"], row["prefsrc"], row["metrics"]) == ("10.88.0.1", "10.88.0.5", [{"mtu": 1400}])
    assert find_routes("-6") == {("default", "2001:db8::1", "eth0"), ("2001:db8:1::/48", "fe80::1", "eth0")}


def test_old_routes_go_and_those_of_the_kernel_and_of_loopback_stay(netlink: Netlink) -> None:
    run_ip("link", "set", "lo", "up")
    update_interface(netlink, make_interface("10.88.0.5/16", "2001:db8::5/64"))
    run_ip("route", "add", "default", "via", "10.88.0.2", "metric", "7")
    run_ip(
        "route", "add", "192.0.2.0/24", "via", "10.88.0.3", "mtu", "1200", "src", "10.88.0.5", "dev", "eth0", "onlink"
    )
    run_ip("route", "add", "198.51.100.0/24", "dev", "lo")
    run_ip("-6", "route", "add", "2001:db8:2::/48", "via", "2001:db8::9")

    update_routes(netlink, [types.Route(gateway="10.88.0.1", device="eth0")])

    assert find_routes() == {("default", "10.88.0.1", "eth0"), ("198.51.100.0/24", "", "lo")}
    assert find_routes("-6") == set()
    assert "10.88.0.0/16" in {row["dst"] for row in read_ip("route", "show")}
    assert {"2001:db8::/64", "fe80::/64"} <= {row["dst"] for row in read_ip("-6", "route", "show")}


def test_the_routes_listed_can_be_given_back(netlink: Netlink) -> None:
    update_interface(netlink, make_interface("10.88.0.5/16", "2001:db8::5/64"))
    update_routes(
        netlink,
        [
            types.Route(gateway="10.88.0.1", device="eth0", source="10.88.0.5", mtu=1400),
            types.Route(dest="192.0.2.0/24", gateway="10.88.0.2", device="eth0"),
            types.Route(dest="2001:db8:1::/48", gateway="fe80::1", device="eth0", family=V6),
        ],
    )
    listed = list_routes(netlink)
    before = read_ip("route", "show"), find_routes("-6")

    update_routes(netlink, [route for route in listed if route.gateway])

    assert (read_ip("route", "show"), find_routes("-6")) == before
    assert types.Route(dest="0.0.0.0/0", gateway="10.88.0.1", device="eth0", source="10.88.0.5", mtu=1400) in listed
    assert types.Route(dest="10.88.0.0/16", device="eth0", source="10.88.0.5", scope=253) in listed
    assert types.Route(dest="2001:db8:1::/48", gateway="fe80::1", device="eth0", family=V6, priority=1024) in listed


def test_routes_of_the_same_destination_are_told_apart_by_metric_and_tos(netlink: Netlink) -> None:
    update_interface(netlink, make_interface("10.88.0.5/16", "2001:db8::5/64"))
    wanted = [
        types.Route(gateway="10.88.0.1", device="eth0"),
        types.Route(gateway="10.88.0.2", device="eth0", priority=300),
        types.Route(gateway="10.88.0.3", device="eth0", tos=0x10),
        types.Route(gateway="2001:db8::1", device="eth0", family=V6, priority=300),
        types.Route(gateway="2001:db8::2", device="eth0", family=V6),
    ]
    for _ in range(2):
        update_routes(netlink, wanted)
        rows = [*read_ip("route", "show", "default"), *read_ip("-6", "route", "show", "default")]
        assert {(row["gateway"], row.get("metric", 0)) for row in rows} == {
            ("10.88.0.1", 0),
            ("10.88.0.2", 300),
            ("10.88.0.3", 0),
            ("2001:db8::1", 300),
            ("2001:db8::2", 1024),
        }
    update_routes(netlink, wanted[1:2])
    assert [row["gateway"] for row in read_ip("route", "show", "default")] == ["10.88.0.2"]


def test_routes_that_lead_nowhere_and_by_several_hops_are_made_kept_and_taken_away(netlink: Netlink) -> None:
    update_interface(netlink, make_interface("10.88.0.5/16", "2001:db8::5/64"))
    hops = [types.NextHop(gateway=f"10.88.0.{last}", device="eth0", weight=last) for last in (1, 3)]
    wanted = [
        types.Route(dest="192.0.2.0/24", kind=6),
        types.Route(dest="198.51.100.0/24", kind=7),
        types.Route(dest="2001:db8:1::/48", kind=8, family=V6),
        types.Route(dest="203.0.113.0/24", hops=hops),
    ]
    for _ in range(2):
        update_routes(netlink, wanted)
        rows = {row["dst"]: row for row in [*read_ip("route", "show"), *read_ip("-6", "route", "show")]}
        assert [rows[route.dest].get("type") for route in wanted] == ["blackhole", "unreachable", "prohibit", "unicast"]
        shown = [(hop["gateway"], hop["weight"]) for hop in rows["203.0.113.0/24"]["nexthops"]]
        assert shown == [("10.88.0.1", 1), ("10.88.0.3", 3)]
    assert {route.dest for route in list_routes(netlink)} >= {route.dest for route in wanted}
    update_routes(netlink, [])
    left = {row["dst"] for row in [*read_ip("route", "show"), *read_ip("-6", "route", "show")]}
    assert not left & {route.dest for route in wanted}


def _list_rules(*words: str) -> list[tuple[int, str, str]]:
    return [(row["priority"], row["src"], row.get("table", "")) for row in read_ip(*words, "rule")]


def _copy_rules(*made: str) -> list[bytes]:
    """Return the rules of a namespace in which these were made, as the host describes them."""
    with enter_network_namespace():
        for words in made:
            run_ip(*words.split())
        with open_netlink() as host:
            return describe_policy(scan_namespace(host)).rules


def test_routes_of_other_tables_and_rules_come_and_go_and_a_containers_own_stay(netlink: Netlink) -> None:
    update_interface(netlink, make_interface("10.88.0.5/16", "2001:db8::5/64"))
    run_ip("rule", "add", "from", "10.1.1.1", "lookup", "7", "priority", "70")
    run_ip("route", "add", "10.1.0.0/16", "dev", "eth0", "table", "7")
    before = [(words, _list_rules(*words), read_ip(*words, "route", "show", "table", "all")) for words in ((), ("-6",))]
    policy = types.Policy(
        routes=[
            types.Route(gateway="10.88.0.1", device="eth0", table=100),
            types.Route(dest="192.0.2.0/24", gateway="10.88.0.2", device="eth0", table=7),
            types.Route(dest="203.0.113.0/24", kind=6, table=100_000),
            types.Route(gateway="2001:db8::1", device="eth0", family=V6, table=100),
        ],
        rules=_copy_rules(
            "rule add from 10.88.0.5 lookup 100 priority 500",
            "rule add not fwmark 0x7/0xff iif eth9 ipproto tcp dport 80-90 lookup 9",
            "rule add priority 90 goto 500",
            "-6 rule add from 2001:db8::5 unreachable priority 600",
        ),
    )
    for _ in range(2):
        update_routes(netlink, [], policy)
        assert (500, "10.88.0.5", "100") in _list_rules()
        assert (70, "10.1.1.1", "7") in _list_rules()
        assert len(_list_rules()) == 7
        (row,) = (row for row in read_ip("rule") if row.get("table") == "9")
        assert (row["fwmark"], row["fwmask"], row["iif"], row["ipproto"]) == ("0x7", "0xff", "eth9", "tcp")
        assert {row["gateway"] for row in read_ip("route", "show", "table", "100")} == {"10.88.0.1"}
        assert {row["dst"] for row in read_ip("route", "show", "table", "7")} == {"10.1.0.0/16", "192.0.2.0/24"}
        assert [row["type"] for row in read_ip("route", "show", "table", "100000")] == ["blackhole"]
        assert {row["gateway"] for row in read_ip("-6", "route", "show", "table", "100")} == {"2001:db8::1"}
        update_routes(netlink, [])
    update_routes(netlink, [], types.Policy(rules=_copy_rules()))
    for words, rules, routes in before:
        assert _list_rules(*words) == rules
        assert read_ip(*words, "route", "show", "table", "all") == routes


def test_a_rule_that_the_kernel_made_is_moved_as_on_the_host(netlink: Netlink) -> None:
    usual = _list_rules()
    moved = _copy_rules("rule add priority 10 lookup local", "rule delete priority 0")
    update_routes(netlink, [], types.Policy(rules=moved))
    assert [priority for priority, _, _ in _list_rules()] == [10, 32766, 32767]

    update_routes(netlink, [], types.Policy(rules=_copy_rules()))
    assert _list_rules() == usual


@pytest.mark.parametrize(
    "policy",
    [
        types.Policy(routes=[types.Route(dest="10.0.0.0/8", device="ens3")]),
        types.Policy(routes=[types.Route(dest="10.0.0.0/8", device="ens3", table=255)]),
        types.Policy(rules=[b"short"]),
    ],
)
def test_a_malformed_policy_changes_nothing(netlink: Netlink, policy: types.Policy) -> None:
    run_ip("link", "set", "ens3", "up")

    with pytest.raises((UsageError, ProtocolError)):
        update_routes(netlink, [types.Route(dest="198.51.100.0/24", device="ens3")], policy)

    assert find_routes() == set()


@pytest.mark.parametrize(
    ("route", "error"),
    [
        (types.Route(dest="10.0.0.0/40", device="ens3"), UsageError),
        (types.Route(dest="2001:db8::/32", device="ens3"), UsageError),
        (types.Route(dest="10.0.0.0/8", device="ens3", family=V6), UsageError),
        (types.Route(dest="10.0.0.0/8", device="ens3", source="::1"), UsageError),
        (types.Route(dest="10.0.0.0/8", device="ens3", source="10.1.0.0/16"), UsageError),
        (types.Route(dest="10.0.0.0/8", device="ens3", scope=256), UsageError),
        (types.Route(dest="10.0.0.0/8", device="ens3", kind=2), UsageError),
        (types.Route(dest="10.0.0.0/8", hops=[types.NextHop(device="ens9")]), NotFoundError),
        (types.Route(dest="10.0.0.0/8", device="ens9"), NotFoundError),
        (types.Route(dest="2001:db8::/32", family=V6), NotFoundError),
    ],
)
def test_a_malformed_route_leaves_the_routes_alone(
    netlink: Netlink, route: types.Route, error: type[Exception]
) -> None:
    run_ip("link", "set", "ens3", "up")
    run_ip("route", "add", "192.0.2.0/24", "dev", "ens3")

    with pytest.raises(error):
        update_routes(netlink, [types.Route(dest="198.51.100.0/24", device="ens3"), route])

    assert find_routes() == {("192.0.2.0/24", "", "ens3")}


def test_a_refused_route_is_told_with_the_kernels_sentence(netlink: Netlink) -> None:
    update_interface(netlink, make_interface("10.88.0.5/16"))

    with pytest.raises(
        HostError, match=r"refused to add route 0\.0\.0\.0/0 via 192\.0\.2\.1 .* Nexthop has invalid gat"
    ):
        update_routes(netlink, [types.Route(gateway="192.0.2.1", device="eth0")])


def test_interfaces_are_listed_with_their_addresses(netlink: Netlink) -> None:
    run_ip("link", "set", "lo", "up")
    update_interface(netlink, make_interface("10.88.0.5/16", raw_flags=NOARP))

    listed = {interface.name: interface for interface in list_interfaces(netlink)}

    assert listed.keys() == {"lo", "eth0", "far0"}
    eth0 = listed["eth0"]
    assert (eth0.hwAddr, eth0.mtu, eth0.raw_flags) == (MAC, 1450, NOARP)
    assert types.IPAddress(family=types.IPFamily.V4, address="10.88.0.5", mask="16") in eth0.IPAddresses
    assert {(row.address, row.mask) for row in listed["lo"].IPAddresses} == {("127.0.0.1", "8"), ("::1", "128")}
    assert {row.family for row in listed["lo"].IPAddresses} == {types.IPFamily.V4, V6}


def test_neighbours_are_permanent_unless_told_otherwise(netlink: Netlink) -> None:
    update_interface(netlink, make_interface("10.88.0.5/16", "2001:db8::5/64"))

    add_neighbours(
        netlink,
        [
            types.ARPNeighbor(toIPAddress=types.IPAddress(address="10.88.0.1"), device="eth0", lladdr=OTHER_MAC),
            types.ARPNeighbor(
                toIPAddress=types.IPAddress(family=V6, address="2001:db8::1"),
                device="eth0",
                lladdr=OTHER_MAC,
                state=0x80,
                flags=0x80,
            ),
            types.ARPNeighbor(
                toIPAddress=types.IPAddress(address="10.88.0.2"), device="eth0", lladdr=OTHER_MAC, state=0x04
            ),
        ],
    )

    rows = {row["dst"]: row for row in read_ip("neigh", "show", "dev", "eth0")}
    assert {row["lladdr"] for row in rows.values()} == {OTHER_MAC}
    assert rows["10.88.0.1"]["state"] == ["PERMANENT"]
    assert rows["10.88.0.2"]["state"] == ["STALE"]
    assert rows["2001:db8::1"]["state"] == ["PERMANENT"]
    assert "router" in rows["2001:db8::1"]


@pytest.mark.parametrize("target", [None, types.IPAddress()])
def test_a_neighbour_without_an_ip_address_is_refused(netlink: Netlink, target: types.IPAddress | None) -> None:
    with pytest.raises(UsageError, match="has no IP address"):
        add_neighbours(netlink, [types.ARPNeighbor(toIPAddress=target, device="ens3", lladdr=MAC)])
