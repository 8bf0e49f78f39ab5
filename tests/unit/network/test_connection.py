"""A namespace is read and connected as it is, in a namespace of the test's own."""

import os
import select
import socket
import subprocess

import pytest

from kata.errors import NotFoundError, StateError, UnsupportedError
from kata.network.connection import PodConnection, disconnect_namespace
from kata.network.guestview import describe_interface, describe_neighbours, describe_policy, describe_routes
from kata.network.limit import Limits
from kata.network.namespace import claim_namespace, make_namespace, open_namespace, visit_namespace
from kata.network.scan import scan_namespace
from kata.network.tap import LARGEST_MTU
from kata.protocol.messages import types
from kata.transport.netlink import open_netlink
from netns import enter_network_namespace, read_ip, run_ip

_UNLIMITED = Limits()
_VNET_HEADER = 10
"""Bytes of `struct virtio_net_hdr` before each frame of a tap that was opened with IFF_VNET_HDR."""


def _make_link(name: str = "eth0") -> None:
    run_ip("link", "add", name, "address", "02:00:00:00:05:02", "type", "veth", "peer", "name", f"{name}-peer")
    run_ip("link", "set", name, "mtu", "1400", "up")
    run_ip("addr", "add", "10.5.0.2/24", "dev", name)
    run_ip("-6", "addr", "add", "fd05::2/64", "dev", name, "nodad")


def _connect(sandbox: str, model: str = "tcfilter", limits: Limits = _UNLIMITED) -> PodConnection:
    connection = PodConnection(sandbox, model, limits=limits)
    connection.scan()
    connection.connect()
    return connection


def _run_tc(*words: str) -> str:
    return subprocess.run(["tc", *words], check=True, capture_output=True, text=True).stdout


def _list_ingress() -> set[str]:
    return {line.split()[4] for line in _run_tc("qdisc").splitlines() if line.startswith("qdisc ingress")}


def test_a_link_is_described_with_its_addresses_and_without_those_that_the_guest_makes_itself() -> None:
    with enter_network_namespace(), open_netlink() as netlink:
        _make_link()
        layout = scan_namespace(netlink)

    assert [describe_interface(endpoint) for endpoint in layout.endpoints] == [
        types.Interface(
            device="eth0",
            name="eth0",
            IPAddresses=[
                types.IPAddress(address="10.5.0.2", mask="24"),
                types.IPAddress(family=types.IPFamily.V6, address="fd05::2", mask="64"),
            ],
            mtu=1400,
            hwAddr="02:00:00:00:05:02",
            type="veth",
        )
    ]


def test_routes_and_neighbours_are_those_that_somebody_set() -> None:
    with enter_network_namespace(), open_netlink() as netlink:
        _make_link()
        run_ip("route", "add", "default", "via", "10.5.0.1")
        run_ip(
            "route", "add", "10.9.0.0/16", "via", "10.8.0.1", "dev", "eth0", "onlink", "src", "10.5.0.2", "mtu", "1300"
        )
        run_ip("route", "add", "default", "via", "10.5.0.9", "metric", "300")
        run_ip("route", "add", "10.66.0.0/16", "tos", "0x10", "via", "10.5.0.1")
        for kind in ("blackhole", "unreachable", "prohibit", "throw"):
            run_ip("route", "add", kind, f"10.{len(kind)}.0.0/16", "metric", "5" if kind == "blackhole" else "0")
        hops = [("nexthop", "via", f"10.5.0.{last}", "weight", last) for last in ("1", "3")]
        run_ip("route", "add", "10.7.0.0/16", *hops[0], *hops[1])
        run_ip("-6", "route", "add", "default", "via", "fd05::1")
        run_ip("-6", "route", "add", "blackhole", "fd06::/64", "metric", "7")
        run_ip("neigh", "add", "10.5.0.1", "lladdr", "02:00:00:00:05:01", "dev", "eth0")
        layout = scan_namespace(netlink)

    v6 = types.IPFamily.V6
    assert describe_routes(layout) == [
        types.Route(gateway="10.5.0.1", device="eth0"),
        types.Route(gateway="10.5.0.9", device="eth0", priority=300),
        types.Route(dest="10.5.0.0/16", kind=9),
        types.Route(
            dest="10.7.0.0/16",
            hops=[
                types.NextHop(gateway="10.5.0.1", device="eth0", weight=1),
                types.NextHop(gateway="10.5.0.3", device="eth0", weight=3),
            ],
        ),
        types.Route(dest="10.8.0.0/16", kind=8),
        types.Route(dest="10.9.0.0/16", gateway="10.8.0.1", device="eth0", source="10.5.0.2", flags=4, mtu=1300),
        types.Route(dest="10.9.0.0/16", kind=6, priority=5),
        types.Route(dest="10.11.0.0/16", kind=7),
        types.Route(dest="10.66.0.0/16", gateway="10.5.0.1", device="eth0", tos=0x10),
        types.Route(dest="fd06::/64", kind=6, family=v6, priority=7),
        types.Route(gateway="fd05::1", device="eth0", family=v6, priority=1024),
    ]
    assert describe_neighbours(layout) == [
        types.ARPNeighbor(
            toIPAddress=types.IPAddress(address="10.5.0.1"), device="eth0", lladdr="02:00:00:00:05:01", state=0x80
        )
    ]


def test_routes_of_other_tables_and_rules_are_described_where_somebody_made_some() -> None:
    with enter_network_namespace(), open_netlink() as netlink:
        _make_link()
        run_ip("-6", "route", "add", "default", "via", "fd05::1")
        usual = scan_namespace(netlink)
        run_ip("route", "add", "default", "via", "10.5.0.1", "table", "300")
        run_ip("-6", "route", "add", "blackhole", "fd06::/64", "table", "7")
        with_tables = scan_namespace(netlink)
        run_ip("route", "flush", "table", "300")
        run_ip("-6", "route", "flush", "table", "7")
        run_ip("rule", "add", "from", "10.5.0.2", "lookup", "300")
        with_rule = scan_namespace(netlink)
        run_ip("rule", "delete", "from", "10.5.0.2")
        again = scan_namespace(netlink)

    assert describe_policy(with_tables).routes == [
        types.Route(gateway="10.5.0.1", device="eth0", table=300),
        types.Route(dest="fd06::/64", kind=6, family=types.IPFamily.V6, priority=1024, table=7),
    ]
    assert [len(describe_policy(layout).rules) for layout in (usual, with_tables, with_rule)] == [5, 5, 6]
    assert [layout.has_policy for layout in (usual, with_tables, with_rule, again)] == [False, True, True, False]
    assert describe_routes(with_tables) == describe_routes(usual)


def test_links_that_are_down_without_an_address_and_ports_of_a_bridge_stay_with_the_host() -> None:
    with enter_network_namespace(), open_netlink() as netlink:
        run_ip("link", "add", "br0", "up", "type", "bridge")
        run_ip("link", "add", "port", "up", "master", "br0", "type", "veth", "peer", "name", "down")

        assert [endpoint.link.name for endpoint in scan_namespace(netlink).endpoints] == ["br0"]


@pytest.mark.parametrize("kind", ["macvlan", "macvtap", "dummy"])
def test_links_of_other_kinds_are_connected_too(kind: str) -> None:
    with enter_network_namespace():
        run_ip("link", "add", "below", "type", "veth", "peer", "name", "peer")
        below = ("link", "below") if kind != "dummy" else ()
        try:
            run_ip("link", "add", *below, "name", "upper", "type", kind)
        except AssertionError:
            pytest.skip(f"NO {kind}: this kernel has no such links")
        run_ip("link", "set", "upper", "up")
        connection = _connect("one")
        assert _list_ingress() == {"upper", "tap0_kata"}
        connection.close()


def test_a_connection_leaves_nothing_once_it_was_closed_and_disconnected() -> None:
    with enter_network_namespace():
        _make_link()
        connection = PodConnection("one")
        connection.scan()
        plugs = connection.connect()
        assert [plug.endpoint.link.name for plug in plugs] == ["eth0"]
        assert read_ip("link", "show", "tap0_kata")[0]["mtu"] == LARGEST_MTU
        assert [counters.name for counters in connection.read_counters()] == ["eth0"]

        connection.close()
        disconnect_namespace("another")
        assert _list_ingress() == {"eth0"}
        disconnect_namespace("one")
        disconnect_namespace("one")
        assert _list_ingress() == set()
        assert [row["ifname"] for row in read_ip("link", "show", "type", "tun")] == []


def test_links_that_come_later_are_connected_alone_and_withdrawn_when_no_vmm_takes_them() -> None:
    with enter_network_namespace():
        _make_link()
        connection = PodConnection("one")
        connection.scan()
        for plug in connection.connect():
            connection.hand_over(plug)
        assert connection.connect() == []

        _make_link("net1")
        connection.scan()
        for _attempt in range(2):
            assert [plug.endpoint.link.name for plug in connection.connect()] == ["net1"]
            assert "net1" in _list_ingress()
            connection.withdraw()
            assert _list_ingress() == {"eth0"}
        connection.close()


def test_a_link_that_has_gone_gives_its_tap_to_the_next_and_one_that_is_down_stays() -> None:
    with enter_network_namespace():
        _make_link()
        _make_link("net1")
        connection = _connect("one")
        _, gone = connection.layout.endpoints
        run_ip("link", "delete", "net1")
        run_ip("addr", "flush", "dev", "eth0")
        run_ip("link", "set", "eth0", "down")
        connection.scan()

        assert connection.list_gone() == [gone.link.ifindex]
        assert [endpoint.link.name for endpoint in connection.connected.endpoints] == ["eth0"]
        assert connection.connected.endpoints[0].addresses == ()

        connection.close_taps()  # as the VMM does with the card
        connection.forget(gone.link.ifindex)
        _make_link("net2")
        connection.scan()
        assert connection.list_gone() == []
        assert [plug.endpoint.link.name for plug in connection.connect()] == ["net2"]
        assert _list_ingress() == {"eth0", "net2", "tap1_kata"}
        connection.close()


@pytest.mark.parametrize("model", ["tcfilter", "macvtap", "none"])
def test_a_tap_and_its_limits_follow_the_mtu_of_the_link(model: str) -> None:
    with enter_network_namespace():
        _make_link()
        run_ip("link", "set", "eth0-peer", "mtu", "65535")
        connection = _connect("one", model, Limits(receive=0 if model == "macvtap" else 8_000_000, send=16_000_000))
        bursts = {_read_burst()}
        for mtu in (65535, 1300):
            run_ip("link", "set", "eth0", "mtu", str(mtu))
            connection.scan()
            assert connection.connect() == []
            assert describe_interface(connection.connected.endpoints[0]).mtu == mtu
            shown = LARGEST_MTU if model == "tcfilter" else min(mtu, LARGEST_MTU)
            assert read_ip("link", "show", "tap0_kata")[0]["mtu"] == shown
            bursts.add(_read_burst())
        connection.close()

    assert len(bursts) == 2


def _read_burst() -> tuple[str, ...]:
    said = [line.split() for line in _run_tc("qdisc").splitlines()]
    return tuple(sorted(words[words.index("burst") + 1] for words in said if words[1] == "tbf"))


@pytest.mark.parametrize("model", ["tcfilter", "macvtap", "none"])
def test_limits_are_on_what_the_vm_receives_and_sends_and_go_with_the_connection(model: str) -> None:
    with enter_network_namespace():
        _make_link()
        connection = _connect("one", model, Limits(receive=0 if model == "macvtap" else 8_000_000, send=16_000_000))
        said = [line.split() for line in _run_tc("qdisc").splitlines()]
        limits = {words[4]: words[words.index("rate") + 1] for words in said if words[1] == "tbf"}
        assert (
            limits
            == {
                "tcfilter": {"tap0_kata": "8Mbit", "eth0": "16Mbit"},
                "macvtap": {"eth0": "16Mbit"},
                "none": {"tap0_kata": "8Mbit"},
            }[model]
        )
        connection.close()
        disconnect_namespace("one")
        assert "tbf" not in _run_tc("qdisc")


def test_a_link_with_a_queue_of_somebody_elses_is_not_limited_and_left_as_it_was() -> None:
    with enter_network_namespace():
        _make_link()
        _run_tc("qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "1mbit", "burst", "10k", "limit", "10k")
        before = _run_tc("qdisc")
        connection = PodConnection("one", limits=Limits(send=1_000_000))
        connection.scan()
        with pytest.raises(StateError, match="eth0 cannot be limited: it has a queueing discipline"):
            connection.connect()
        connection.close()
        assert _run_tc("qdisc") == before


def test_a_macvtap_has_the_links_address_until_it_is_released() -> None:
    with enter_network_namespace():
        _make_link()
        before = read_ip("addr", "show", "eth0")[0]
        connection = _connect("one", "macvtap")
        tap, link = (read_ip("addr", "show", name)[0] for name in ("tap0_kata", "eth0"))
        connection.scan()

        assert (tap["linkinfo"]["info_kind"], tap["linkinfo"]["info_data"]["mode"]) == ("macvtap", "bridge")
        assert (tap["address"], tap["mtu"], tap["addr_info"]) == (before["address"], 1400, [])
        assert "ALLMULTI" in tap["flags"]
        assert link["address"] != before["address"]
        assert {row["local"] for row in link["addr_info"]} >= {"10.5.0.2", "fd05::2"}
        assert describe_interface(connection.connected.endpoints[0]).hwAddr == before["address"]
        other = PodConnection("two", "macvtap")
        other.scan()
        with pytest.raises(StateError, match="another VM is connected"):
            other.connect()

        other.close()
        connection.close()
        disconnect_namespace("two")
        assert "clsact" in _run_tc("qdisc")
        disconnect_namespace("one")
        disconnect_namespace("one")
        assert "clsact" not in _run_tc("qdisc")
        assert {row["ifname"] for row in read_ip("link")} == {"lo", "eth0", "eth0-peer"}
        assert read_ip("link", "show", "eth0")[0]["address"] == before["address"]


def test_a_macvtap_answers_alone_and_its_namespace_keeps_silent() -> None:
    with enter_network_namespace():
        _make_link()
        connection = PodConnection("one", "macvtap")
        connection.scan()
        (plug,) = connection.connect()
        run_ip("link", "set", "eth0-peer", "up")
        # An ARP request for the pod's address, from its neighbour.
        mac = bytes.fromhex(read_ip("link", "show", "eth0-peer")[0]["address"].replace(":", ""))
        ask = b"\xff" * 6 + mac + bytes.fromhex("0806 0001 0800 06 04 0001") + mac + bytes((10, 5, 0, 1))
        ask += bytes(6) + bytes((10, 5, 0, 2)) + bytes(18)
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        with wire:
            wire.bind(("eth0-peer", 0))
            wire.settimeout(5)
            wire.send(ask)
            heard = b""
            while heard != ask:  # what its neighbour says by itself comes too
                assert select.select([plug.taps[0]], [], [], 5)[0]
                heard = os.read(plug.taps[0], 2000)[_VNET_HEADER:]
            answer = mac + bytes.fromhex("020000000502") + b"\x08\x06" + bytes(46)
            os.write(plug.taps[0], bytes(_VNET_HEADER) + answer)
            while (frame := wire.recv(2000)) == ask:  # its own
                pass
            assert frame == answer
        connection.close()


def test_a_namespace_that_is_connected_is_refused_to_others() -> None:
    with enter_network_namespace():
        _make_link()
        first, second = _connect("one"), PodConnection("two")
        second.scan()
        with pytest.raises(StateError, match="another VM is connected"):
            second.connect()
        first.close_taps()
        with pytest.raises(StateError, match="another VM is connected"):
            second.connect()
        disconnect_namespace("one")
        assert second.connect()
        first.close()
        second.close()


def test_a_queue_that_a_crash_left_without_a_filter_is_used_again() -> None:
    with enter_network_namespace():
        _make_link()
        subprocess.run(["tc", "qdisc", "add", "dev", "eth0", "ingress"], check=True)
        connection = _connect("one")
        assert connection.connected.endpoints
        connection.close()


def test_the_callers_own_namespace_is_the_hosts_and_refused() -> None:
    assert open_namespace(None) is None
    with pytest.raises(UnsupportedError, match="/proc/self/ns/net is the host's, on which no VM can be"):
        open_namespace("/proc/self/ns/net")


def test_a_namespace_is_claimed_by_one_and_free_again_when_that_has_ended() -> None:
    with enter_network_namespace():
        first = claim_namespace("/run/netns/a")
        with pytest.raises(StateError, match="another VM is connected to the network namespace /run/netns/a"):
            claim_namespace("/run/netns/a")
        first.close()
        claim_namespace("/run/netns/a").close()


def test_a_path_without_a_namespace_is_named() -> None:
    with pytest.raises(NotFoundError, match="the network namespace /absent/ns cannot be opened"):
        open_namespace("/absent/ns")


def test_a_new_namespace_is_visited_and_left_again() -> None:
    with enter_network_namespace():
        _make_link()
        descriptor = make_namespace()
        try:
            with visit_namespace(descriptor):
                assert [row["ifname"] for row in read_ip("link")] == ["lo"]
            assert {row["ifname"] for row in read_ip("link")} == {"lo", "eth0", "eth0-peer"}
        finally:
            os.close(descriptor)
