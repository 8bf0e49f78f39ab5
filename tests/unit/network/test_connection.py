"""A namespace is read and connected as it is, in a namespace of the test's own."""

import os
import subprocess

import pytest

from kata.errors import NotFoundError, StateError
from kata.network.connection import PodConnection, disconnect_namespace
from kata.network.guestview import describe_interface, describe_neighbours, describe_routes
from kata.network.namespace import make_namespace, open_namespace, visit_namespace
from kata.network.scan import scan_namespace
from kata.protocol.messages import types
from kata.transport.netlink import open_netlink
from netns import enter_network_namespace, read_ip, run_ip


def _make_link(name: str = "eth0") -> None:
    run_ip("link", "add", name, "address", "02:00:00:00:05:02", "type", "veth", "peer", "name", f"{name}-peer")
    run_ip("link", "set", name, "mtu", "1400", "up")
    run_ip("addr", "add", "10.5.0.2/24", "dev", name)
    run_ip("-6", "addr", "add", "fd05::2/64", "dev", name, "nodad")


def _list_ingress() -> set[str]:
    shown = subprocess.run(["tc", "qdisc"], check=True, capture_output=True, text=True).stdout
    return {line.split()[4] for line in shown.splitlines() if line.startswith("qdisc ingress")}


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
        run_ip("-6", "route", "add", "default", "via", "fd05::1")
        run_ip("neigh", "add", "10.5.0.1", "lladdr", "02:00:00:00:05:01", "dev", "eth0")
        layout = scan_namespace(netlink)

    v6 = types.IPFamily.V6
    assert describe_routes(layout) == [
        types.Route(gateway="10.5.0.1", device="eth0"),
        types.Route(dest="10.9.0.0/16", gateway="10.8.0.1", device="eth0", source="10.5.0.2", flags=4, mtu=1300),
        types.Route(gateway="fd05::1", device="eth0", family=v6),
    ]
    assert describe_neighbours(layout) == [
        types.ARPNeighbor(
            toIPAddress=types.IPAddress(address="10.5.0.1"), device="eth0", lladdr="02:00:00:00:05:01", state=0x80
        )
    ]


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
        connection = PodConnection("one")
        connection.connect()
        assert _list_ingress() == {"upper", "tap0_kata"}
        connection.close()


def test_a_connection_leaves_nothing_once_it_was_closed_and_disconnected() -> None:
    with enter_network_namespace():
        _make_link()
        connection = PodConnection("one")
        plugs = connection.connect()
        assert [plug.endpoint.link.name for plug in plugs] == ["eth0"]
        assert read_ip("link", "show", "tap0_kata")[0]["mtu"] == 1400
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
        for plug in connection.connect():
            connection.hand_over(plug)
        assert connection.connect() == []

        _make_link("net1")
        for _attempt in range(2):
            assert [plug.endpoint.link.name for plug in connection.connect()] == ["net1"]
            assert "net1" in _list_ingress()
            connection.withdraw()
            assert _list_ingress() == {"eth0"}
        connection.close()


def test_a_namespace_that_is_connected_is_refused_to_others() -> None:
    with enter_network_namespace():
        _make_link()
        first, second = PodConnection("one"), PodConnection("two")
        first.connect()
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
        connection = PodConnection("one")
        assert connection.connect()
        connection.close()


def test_the_callers_own_namespace_counts_as_the_hosts() -> None:
    assert open_namespace(None) is None
    assert open_namespace("/proc/self/ns/net") is None


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
