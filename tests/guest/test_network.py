"""A pod's links, made by somebody else, are the guest's: addresses, routes, MTU, both families, and nothing stays."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import ALL_CAPABILITIES, HYPERVISOR, Container, Engine, add_mount, combine, grant, kill_process
from netns import read_ip, run_ip
from podnet import MTU, PodNet, add_veth, make_pod_network

_LARGE = 300_000
_SERVED = ("0123456789abcde\n" * (_LARGE // 16 + 1))[:_LARGE]
_PATIENCE = 60.0
_SECOND_BY_RULE = [
    (*family, "rule", "add", "from", net, "lookup", "100") for family, net in (((), "10.6.0.2"), (("-6",), "fd06::2"))
]
"""Words of ip(8): what is sent from the second link's addresses leaves by the second link."""

_VHOST_NET = "/dev/vhost-net"
_plugs_in = pytest.mark.skipif(
    HYPERVISOR in {"firecracker", "microvm"}, reason=f"{HYPERVISOR.upper()} plugs in no network card"
)
_has_two_ports = pytest.mark.skipif(HYPERVISOR != "qemu", reason=f"{HYPERVISOR.upper()} HAS NO PORTS to run out of")


def _serve_large(held: Container) -> None:
    """Have a web server in the container with a file of `_LARGE` bytes, at port 8080."""
    held.ask("sh", "-c", f"mkdir -p /w; yes 0123456789abcde | head -c {_LARGE} > /w/large; httpd -h /w -p 8080")


def _await_text(path: Path, text: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while text not in path.read_text():
        assert time.monotonic() < deadline, f"{path} does not say {text!r}: {path.read_text()}"


@pytest.fixture(scope="module")
def net(engine: Engine) -> Iterator[PodNet]:
    with make_pod_network(f"{engine.token}-net") as net:
        add_veth(net, "net1", "10.6.0", "fd06:")
        for words in (
            ("route", "add", "198.51.100.0/24", "via", "10.6.0.1", "src", "10.6.0.2"),
            ("route", "add", "203.0.113.7", "dev", "net1", "scope", "link"),
            ("route", "add", "203.0.113.9", "via", "10.9.9.9", "dev", "net1", "onlink"),
            ("route", "add", "default", "via", "10.6.0.1", "metric", "300"),
            ("route", "add", "blackhole", "203.0.113.64/26"),
            ("route", "add", "203.0.113.128/25", "nexthop", "via", "10.5.0.1", "nexthop", "via", "10.6.0.1"),
            ("-6", "route", "add", "unreachable", "fd99::/64", "metric", "7"),
            ("route", "add", "default", "via", "10.6.0.1", "table", "100"),
            ("-6", "route", "add", "default", "via", "fd06::1", "table", "100"),
            ("-6", "route", "add", "fd88::/64", "nexthop", "via", "fd05::1", "nexthop", "via", "fd06::1"),
            *_SECOND_BY_RULE,
            ("neigh", "add", "10.6.0.77", "lladdr", "02:00:00:00:00:77", "dev", "net1"),
            ("-6", "neigh", "add", "fd06::77", "lladdr", "02:00:00:00:00:78", "dev", "net1"),
            ("route", "add", "203.0.113.8", "dev", "net1", "scope", "host"),
        ):
            subprocess.run(["ip", "-n", net.pod, *words], check=True, timeout=10)
        yield net


@pytest.fixture(scope="module")
def networked(engine: Engine, net: PodNet) -> Iterator[Container]:
    """A container on the pod's network."""
    names = engine.directory / "resolv.conf"
    names.write_text("search example.test\nnameserver 10.5.0.1\n")
    mount = add_mount("/etc/resolv.conf", "bind", str(names), "bind", "ro")
    change = combine(net.join, grant(*ALL_CAPABILITIES), mount)
    with engine.hold("sleep", "100000", change=change, name="networked") as held:
        yield held


def test_the_guest_has_the_names_addresses_mtu_and_link_addresses_of_the_pods_links(
    networked: Container, net: PodNet
) -> None:
    for link, v4, v6 in (("eth0", "10.5.0.2/24", "fd05::2/64"), ("net1", "10.6.0.2/24", "fd06::2/64")):
        shown = networked.ask("ip", "addr", "show", link)
        assert f"inet {v4} " in shown
        assert f"inet6 {v6} " in shown
        assert f"mtu {MTU} " in shown
        host = subprocess.run(
            ["ip", "-n", net.pod, "-j", "link", "show", link], check=True, capture_output=True, timeout=10
        )
        assert json.loads(host.stdout)[0]["address"] in shown


def test_the_guest_has_the_routes_with_source_scope_and_flags(networked: Container) -> None:
    routes = [line.strip() for line in networked.ask("ip", "route").splitlines()]

    assert "default via 10.5.0.1 dev eth0" in routes
    assert "198.51.100.0/24 via 10.6.0.1 dev net1  src 10.6.0.2" in routes
    assert "203.0.113.7 dev net1 scope link" in routes
    assert "203.0.113.8 dev net1 scope host" in routes
    assert any(line.startswith("203.0.113.9 via 10.9.9.9 dev net1") for line in routes)
    assert "default via 10.6.0.1 dev net1  metric 300" in routes
    assert "blackhole 203.0.113.64/26" in routes
    routes = networked.ask("ip", "-6", "route").split("\n")
    assert any(line.startswith("default via fd05::1 dev eth0") for line in routes)
    assert any(line.startswith("unreachable fd99::/64") and "metric 7 " in line for line in routes)


def test_what_is_asked_at_the_second_link_is_answered_by_it_while_a_rule_says_so(
    networked: Container, net: PodNet
) -> None:
    """The peer asks from addresses to which the default route leads by the first link, where answers are dropped."""
    first = net.find_peer_link("10.5.0.1")
    policy = f"""
        chain strict {{
            type filter hook prerouting priority 0; policy accept;
            iifname "{first}" ip saddr 10.6.0.2 counter drop
            iifname "{first}" ip6 saddr fd06::2 counter drop
        }}
    """
    asked = (("192.0.2.9", "10.6.0.2"), ("fd77::9", "fd06::2"))

    def ask(patience: int) -> list[bool]:
        return [
            net.run_peer("ping", "-c", "1", "-W", str(patience), "-I", source, address).returncode == 0
            for source, address in asked
        ]

    run_ip("-n", net.peer, "addr", "add", "fd77::9/128", "dev", "lo", "nodad")
    with net.enforce(policy):
        assert ask(10) == [True, True]
        assert net.count_packets() == [0, 0]
        for words in _SECOND_BY_RULE:
            run_ip("-n", net.pod, *("delete" if word == "add" else word for word in words))
        networked.await_success("! ip rule | grep 10.6.0.2", "! ip -6 rule | grep fd06::2")
        assert ask(2) == [False, False]
        assert all(net.count_packets())
        for words in _SECOND_BY_RULE:
            run_ip("-n", net.pod, *words)
        networked.await_success("ip rule | grep 10.6.0.2", "ip -6 rule | grep fd06::2")
        assert ask(10) == [True, True]


def test_a_route_of_several_hops_leads_by_all_of_them(networked: Container, net: PodNet) -> None:
    links = [net.find_peer_link(address) for address in ("10.5.0.1", "10.6.0.1")]
    rules = [
        f'iifname "{link}" {match} counter'
        for match in ("ip daddr 203.0.113.128/25", "ip6 daddr fd88::/64")
        for link in links
    ]
    counting = "chain hops { type filter hook prerouting priority 0; policy accept;\n" + "\n".join(rules) + "\n}"
    run_ip("-n", net.peer, "route", "add", "local", "203.0.113.128/25", "dev", "lo")
    run_ip("-n", net.peer, "-6", "route", "add", "local", "fd88::/64", "dev", "lo")

    with net.enforce(counting):
        for network in ("203.0.113.2", "fd88::"):  # of 16 destinations all by one hop: once in 32768 times
            networked.ask("sh", "-c", f"for n in $(seq 10 25); do ping -c 1 -W 5 {network}$n || exit 1; done")
        assert all(net.count_packets())


def test_static_neighbours_are_known_in_the_guest(networked: Container) -> None:
    shown = networked.ask("ip", "neigh", "show", "dev", "net1")

    for address, neighbour in (("10.6.0.77", "02:00:00:00:00:77"), ("fd06::77", "02:00:00:00:00:78")):
        assert f"{address} lladdr {neighbour}" in shown


@pytest.mark.parametrize("address", ["10.5.0.1", "10.6.0.1", "192.0.2.9", "fd05::1", "fd06::1"])
def test_the_guest_reaches_its_peer(networked: Container, address: str) -> None:
    networked.ask("ping", "-c", "1", "-W", "5", address)


@pytest.mark.parametrize("address", ["10.5.0.2", "fd05::2"])
def test_a_peer_reaches_a_server_in_the_guest_and_gets_all_of_a_large_answer(
    networked: Container, net: PodNet, address: str
) -> None:
    _serve_large(networked)
    url = f"http://[{address}]:8080/large" if ":" in address else f"http://{address}:8080/large"
    try:
        done = net.run_peer("wget", "-qO-", url)
        assert done.stdout == _SERVED, done.stderr
    finally:
        networked.ask("killall", "httpd")


def test_the_guest_sends_a_large_body_to_its_peer(networked: Container, net: PodNet) -> None:
    with net.listen(7000) as server:
        server.settimeout(20)
        send = networked.engine.start(
            "exec", networked.id, "sh", "-c", f"yes 0123456789abcde | head -c {_LARGE} | nc 10.5.0.1 7000"
        )
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as stream:
            assert len(stream.read()) == _LARGE
        send.communicate(timeout=20)


def test_names_are_looked_up_as_the_engines_resolv_conf_says(networked: Container, net: PodNet) -> None:
    with net.serve_name("peer.example.test", "192.0.2.9"):
        networked.ask("ping", "-c", "1", "-W", "5", "peer")


def test_a_name_server_on_the_loopback_of_the_pods_namespace_is_asked_by_the_guest(
    networked: Container, net: PodNet
) -> None:
    """As Docker's. It begins, and the resolv.conf names it, while the container runs; then both are as before."""
    names = networked.engine.directory / "resolv.conf"
    before = names.read_text()
    query = b"\x77\x88\1\0\0\1\0\0\0\0\0\0\4peer\7example\4test\0\0\1\0\1"
    framed = "".join(f"\\{byte:03o}" for byte in len(query).to_bytes(2) + query)

    def turn_round(text: str) -> None:
        names.write_text(text)
        run_ip("-n", net.pod, "route", "add", "10.99.0.0/16", "via", "10.5.0.1")  # so that the daemon looks again
        run_ip("-n", net.pod, "route", "del", "10.99.0.0/16")

    try:
        with net.serve_name("peer.example.test", "192.0.2.9", place="127.0.0.11"):
            turn_round("search example.test\nnameserver 127.0.0.11\n")
            networked.await_success("ping -c 1 -W 5 peer")
            heard = networked.ask("sh", "-c", f"printf '{framed}' | nc 127.0.0.11 53 | tail -c 4 | od -An -tu1")
            assert heard.split() == ["192", "0", "2", "9"]
    finally:
        turn_round(before)
    networked.await_success("! nc 127.0.0.11 53 < /dev/null")


def test_a_policy_of_nftables_on_the_hosts_veth_is_honoured_both_ways_and_changes_count_at_once(
    networked: Container, net: PodNet
) -> None:
    veth = net.find_peer_link("10.5.0.1")
    policy = f"""
        chain from_pod {{
            type filter hook input priority 0; policy accept;
            iifname "{veth}" tcp dport 7001 counter drop
        }}
        chain to_pod {{
            type filter hook output priority 0; policy accept;
            oifname "{veth}" tcp dport 8081 counter drop
        }}
    """

    def dial_peer(port: int, patience: int = 30) -> bool:
        return networked.execute("nc", "-w", str(patience), "10.5.0.1", str(port), "-e", "true").code == 0

    def dial_guest(port: int, patience: int = 30) -> bool:
        done = net.run_peer("nc", "-w", str(patience), "10.5.0.2", str(port), "-e", "true", timeout=60)
        return done.returncode == 0

    networked.ask("sh", "-c", "httpd -h / -p 8080; httpd -h / -p 8081")
    try:
        with net.listen(7001), net.listen(7002):
            with net.enforce(policy):
                assert [dial_peer(7001, patience=3), dial_peer(7002)] == [False, True]
                assert [dial_guest(8081, patience=3), dial_guest(8080)] == [False, True]
                assert all(net.count_packets())
            assert dial_peer(7001)
            assert dial_guest(8081)
    finally:
        networked.ask("killall", "httpd")


def test_packets_as_large_as_the_mtu_pass_and_larger_ones_pass_in_fragments(networked: Container) -> None:
    fits = str(MTU - 28)

    networked.ask("ping", "-c", "1", "-W", "5", "-s", fits, "10.5.0.1")
    networked.ask("ping", "-c", "1", "-W", "5", "-s", "4000", "10.5.0.1")


def test_the_guest_follows_the_mtu_the_link_address_and_the_flags_of_a_running_pods_link(
    networked: Container, net: PodNet
) -> None:
    """Both ways, and further up than where the VM was started with."""
    peer = net.find_peer_link("10.6.0.1")
    before = read_ip("-n", net.pod, "link", "show", "net1")[0]["address"]
    large = f"""
        chain large {{
            type filter hook prerouting priority 0; policy accept;
            iifname "{peer}" meta length > 8000 counter
        }}
    """
    try:
        for place, link in ((net.peer, peer), (net.pod, "net1")):
            run_ip("-n", place, "link", "set", link, "mtu", "9000")
        networked.await_success("ip link show net1 | grep 'mtu 9000 '")
        with net.enforce(large):
            networked.ask("ping", "-c", "1", "-W", "5", "-s", "8500", "10.6.0.1")
            assert net.count_packets() == [1]
        run_ip("-n", net.pod, "link", "set", "net1", "mtu", "1300")
        networked.await_success("ip link show net1 | grep 'mtu 1300 '")

        run_ip("-n", net.pod, "link", "set", "net1", "address", "02:00:00:00:06:22")
        networked.await_success("ip link show net1 | grep 02:00:00:00:06:22")
        run_ip("-n", net.peer, "neigh", "flush", "all")
        answer = net.run_peer("ping", "-c", "1", "-W", "5", "10.6.0.2")
        assert answer.returncode == 0, answer
        known = {row["dst"]: row.get("lladdr") for row in read_ip("-n", net.peer, "neigh")}
        assert known["10.6.0.2"] == "02:00:00:00:06:22"

        for arp, shown in (("off", "grep NOARP"), ("on", "grep -v NOARP")):
            run_ip("-n", net.pod, "link", "set", "net1", "arp", arp)
            networked.await_success(f"ip link show net1 | head -n 1 | {shown}")
    finally:
        run_ip("-n", net.pod, "link", "set", "net1", "address", before)
        for place, link in ((net.peer, peer), (net.pod, "net1")):
            run_ip("-n", place, "link", "set", link, "mtu", str(MTU))
    networked.await_success(f"ip link show net1 | grep 'mtu {MTU} '", f"ip link show net1 | grep {before}")
    networked.ask("ping", "-c", "1", "-W", "5", "10.6.0.1")


def test_the_daemon_and_the_vmm_live_in_the_pods_namespace(engine: Engine, networked: Container, net: PodNet) -> None:
    namespace = os.stat(net.path)

    for pid in (networked.pid, engine.find_process("qemu", networked.id), engine.find_process("serve", networked.id)):
        assert os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), namespace)


def test_a_second_vm_on_the_same_network_is_refused_and_the_first_stays_connected(
    engine: Engine, networked: Container, net: PodNet
) -> None:
    refused = engine.run_container("true", change=net.join)

    assert refused.code == 1
    assert "another VM is connected" in refused.err
    networked.ask("ping", "-c", "1", "-W", "5", "10.5.0.1")


def test_a_namespace_without_links_takes_one_vm_too(engine: Engine) -> None:
    with make_pod_network(f"{engine.token}-alone", linked=False) as alone, engine.hold("sleep", "9", change=alone.join):
        refused = engine.run_container("true", change=alone.join)

    assert refused.code == 1
    assert f"another VM is connected to the network namespace {alone.path}" in refused.err


def test_the_hosts_network_is_refused(engine: Engine) -> None:
    def leave_out(spec: dict[str, Any]) -> None:
        spec["linux"]["namespaces"] = [row for row in spec["linux"]["namespaces"] if row["type"] != "network"]

    refused = [
        engine.run_container("true", change=leave_out),
        engine.run_container("true", change=PodNet("../../proc/self/ns/net", "").join),
    ]

    assert [result.code for result in refused] == [1, 1]
    assert "a container on the host's network cannot run in a VM" in refused[0].err
    assert "is the host's, on which no VM can be" in refused[1].err


def test_hooks_of_the_runtime_run_in_the_hosts_network(engine: Engine, net: PodNet, tmp_path: Path) -> None:
    del net
    with make_pod_network(f"{engine.token}-hook") as other:
        hooks = {
            point: [{"path": "/bin/sh", "args": ["sh", "-c", f"readlink /proc/self/ns/net > {tmp_path}/{point}"]}]
            for point in ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
        }
        done = engine.run_container("true", change=combine(other.join, lambda spec: spec.update(hooks=hooks)))
        pod = f"net:[{os.stat(other.path).st_ino}]\n"
    assert done.code == 0, done.err

    host = os.readlink("/proc/self/ns/net") + "\n"
    places = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert places == dict.fromkeys(hooks, host) | {"createContainer": pod}


@_plugs_in
def test_links_that_come_between_create_and_start_are_the_guests_too(engine: Engine) -> None:
    change = grant(*ALL_CAPABILITIES)
    with make_pod_network(f"{engine.token}-late", linked=False) as net:
        with engine.hold("sleep", "1000", change=combine(net.join, change), start=False) as late:
            assert net.list_links() == {"lo"}
            net.connect()
            add_veth(net, "net1", "10.6.0", "fd06:")
            engine.succeed("start", late.id)

            assert net.list_ingress() == {"eth0", "net1", "tap0_kata", "tap1_kata"}
            for address in ("10.5.0.1", "10.6.0.1", "192.0.2.9", "fd05::1", "fd06::1"):
                late.ask("ping", "-c", "1", "-W", "5", address)
            for address in ("10.5.0.2", "fd06::2"):
                answer = net.run_peer("ping", "-c", "1", "-W", "5", address)
                assert answer.returncode == 0, answer

        assert net.list_links() == {"lo", "eth0", "net1"}
        assert not net.list_ingress()


@_has_two_ports
def test_a_link_too_many_is_refused_at_start_and_taken_when_another_makes_room(engine: Engine) -> None:
    names = [f"net{number}" for number in range(3)]
    with make_pod_network(f"{engine.token}-many", linked=False) as net:
        with engine.hold("sleep", "1000", change=net.join, start=False) as late:
            for number, name in enumerate(names):
                add_veth(net, name, f"10.{number + 7}.0", f"fd0{number + 7}:")
            refused = engine.run("start", late.id)

            assert refused.code == 1
            assert "no free hot-plug port" in refused.err
            assert net.list_ingress() == {"net0", "net1", "tap0_kata", "tap1_kata"}
            run_ip("-n", net.pod, "link", "delete", "net2")
            engine.succeed("start", late.id)
            assert "10.8.0.2" in late.ask("ip", "addr", "show", "net1")

        assert not net.list_ingress()


@_plugs_in
def test_links_addresses_and_routes_come_and_go_while_the_container_runs(engine: Engine) -> None:
    with make_pod_network(f"{engine.token}-hot") as net:
        with engine.hold("sleep", "100000", change=combine(net.join, grant(*ALL_CAPABILITIES))) as held:
            add_veth(net, "net1", "10.6.0", "fd06:")
            run_ip("-n", net.pod, "route", "add", "198.51.100.0/24", "via", "10.6.0.1")
            held.await_success("ip route | grep '198.51.100.0/24 via 10.6.0.1 dev net1'")
            held.ask("ping", "-c", "1", "-W", "5", "10.6.0.1")
            answer = net.run_peer("ping", "-c", "1", "-W", "5", "fd06::2")
            assert answer.returncode == 0, answer

            run_ip("-n", net.pod, "addr", "add", "10.5.0.22/24", "dev", "eth0")
            held.await_success("ip addr show eth0 | grep 'inet 10.5.0.22/24'")
            run_ip("-n", net.pod, "addr", "del", "10.5.0.22/24", "dev", "eth0")
            run_ip("-n", net.pod, "route", "del", "198.51.100.0/24")
            held.await_success("! ip addr | grep 10.5.0.22", "! ip route | grep 198.51.100.0")

            for name in ("net1", "eth0"):  # the second was there when the VM was started
                run_ip("-n", net.pod, "link", "delete", name)
                held.await_success(f"! ip link show {name}")
            assert net.list_links() == {"lo"}
            for name, number in (("eth0", 7), ("net1", 8), ("net2", 9)):  # as many as there are ports
                add_veth(net, name, f"10.{number}.0", f"fd0{number}:")
                held.await_success(f"ip addr show {name} | grep 'inet6 fd0{number}::2/64'")
                held.ask("ping", "-c", "1", "-W", "5", f"10.{number}.0.1")

        assert net.list_links() == {"lo", "eth0", "net1", "net2"}
        assert not net.list_ingress()


@_has_two_ports
def test_a_link_too_many_is_logged_and_had_when_another_makes_room(engine: Engine) -> None:
    with (
        make_pod_network(f"{engine.token}-full") as net,
        engine.hold("sleep", "100000", change=combine(net.join, grant(*ALL_CAPABILITIES))) as held,
    ):
        for number in range(3):
            add_veth(net, f"net{number}", f"10.{number + 7}.0", f"fd0{number + 7}:")
        held.await_success("ip addr show net1 | grep 'inet 10.8.0.2/24'")
        log = engine.find_sandbox(held.id) / "service.log"
        _await_text(log, "no free hot-plug port")
        run_ip("-n", net.pod, "link", "delete", "net0")
        held.await_success("ip addr show net2 | grep 'inet 10.9.0.2/24'", "! ip link show net0")
        held.ask("ping", "-c", "1", "-W", "5", "10.9.0.1")


@_plugs_in
@pytest.mark.parametrize("kind", [("type", "macvlan"), ("type", "ipvlan", "mode", "l2")], ids=lambda kind: kind[1])
def test_a_link_of_another_kind_is_the_guests_as_a_veth_is(
    networked: Container, net: PodNet, kind: tuple[str, ...]
) -> None:
    run_ip("-n", net.peer, "link", "add", "below", "mtu", str(MTU), "type", "veth", "peer", "name", "other")
    try:
        try:
            run_ip("-n", net.peer, "link", "add", "link", "below", "name", "net2", "netns", net.pod, *kind)
        except AssertionError:
            pytest.skip(f"NO {kind[1]}: this kernel has no such links, so none is given to a VM")
        for place, name, address in (
            (net.peer, "below", ""),
            (net.peer, "other", "10.7.0.1/24"),
            (net.pod, "net2", "10.7.0.2/24"),
        ):
            run_ip("-n", place, "link", "set", name, "up")
            if address:
                run_ip("-n", place, "addr", "add", address, "dev", name)
        networked.await_success("ip addr show net2 | grep 'inet 10.7.0.2/24'")
        networked.ask("ping", "-c", "1", "-W", "5", "10.7.0.1")
        answer = net.run_peer("ping", "-c", "1", "-W", "5", "10.7.0.2")
        assert answer.returncode == 0, answer
    finally:
        run_ip("-n", net.peer, "link", "delete", "below")
    networked.await_success("! ip link show net2")


@_plugs_in
def test_a_tap_of_another_program_is_the_guests_as_a_veth_is(networked: Container, net: PodNet) -> None:
    with net.open_tap("net2") as tap:
        run_ip("-n", net.pod, "link", "set", "net2", "up")
        run_ip("-n", net.pod, "addr", "add", "10.7.0.2/24", "dev", "net2")
        networked.await_success("ip addr show net2 | grep 'inet 10.7.0.2/24'")
        mac = bytes.fromhex(read_ip("-n", net.pod, "link", "show", "net2")[0]["address"].replace(":", ""))
        peer, addresses = b"\x02\0\0\0\x07\x01", (bytes((10, 7, 0, 1)), bytes((10, 7, 0, 2)))
        form = bytes.fromhex("0806 0001 0800 06 04")  # ARP, Ethernet, IPv4: RFC 826
        os.write(tap, b"\xff" * 6 + peer + form + b"\0\1" + peer + addresses[0] + bytes(6) + addresses[1])
        deadline = time.monotonic() + _PATIENCE
        answer = peer + mac + form + b"\0\2" + mac + addresses[1] + peer + addresses[0]
        while not os.read(tap, 2000).startswith(answer):
            assert time.monotonic() < deadline, "the guest does not answer"
    networked.await_success("! ip link show net2")


def test_what_a_vm_receives_and_sends_is_limited_where_so_configured(engine: Engine) -> None:
    rate, size = 4_000_000, 1_000_000
    engine.configure(f"rx_rate_limiter_max_rate = {rate}\ntx_rate_limiter_max_rate = {2 * rate}\n")
    least = {"receive": size * 8 / rate, "send": size * 8 / (2 * rate)}
    try:
        with (
            make_pod_network(f"{engine.token}-rate") as net,
            engine.hold("sleep", "1000", change=net.join) as held,
            net.listen(7000) as server,
        ):
            server.settimeout(60)
            seconds = {}
            for way, command in (
                ("receive", "nc 10.5.0.1 7000 | wc -c"),
                ("send", f"head -c {size} /dev/zero | nc 10.5.0.1 7000"),
            ):
                running = engine.start("exec", held.id, "sh", "-c", command)
                connection, _ = server.accept()
                began = time.monotonic()
                with connection:
                    connection.settimeout(60)
                    if way == "receive":
                        connection.sendall(bytes(size))
                        connection.shutdown(socket.SHUT_WR)
                    with connection.makefile("rb") as stream:
                        assert len(stream.read()) == (size if way == "send" else 0)
                seconds[way] = time.monotonic() - began
                assert running.communicate(timeout=60)[0] == (b"" if way == "send" else f"{size}\n".encode())
            # A bucket lets a little through at once.
            assert seconds["receive"] > 0.8 * least["receive"]
            assert seconds["send"] > 0.8 * least["send"]
    finally:
        engine.configure("")


@_plugs_in
def test_the_model_macvtap_connects_the_guest_under_the_links_own_address(engine: Engine) -> None:
    engine.configure('[runtime]\ninternetworking_model = "macvtap"\n')
    try:
        with make_pod_network(f"{engine.token}-macvtap") as net:
            before = read_ip("-n", net.pod, "link", "show", "eth0")[0]["address"]
            with engine.hold("sleep", "1000", change=combine(net.join, grant(*ALL_CAPABILITIES))) as held:
                assert net.list_links() == {"lo", "eth0", "tap0_kata"}
                assert not net.list_ingress()
                shown = held.ask("ip", "addr", "show", "eth0")
                assert before in shown
                assert "inet 10.5.0.2/24 " in shown
                for address in ("10.5.0.1", "192.0.2.9", "fd05::1"):
                    held.ask("ping", "-c", "1", "-W", "5", address)
                run_ip("-n", net.peer, "neigh", "flush", "all")
                for address in ("10.5.0.2", "fd05::2"):
                    answer = net.run_peer("ping", "-c", "1", "-W", "5", address)
                    assert answer.returncode == 0, answer
                known = {row["dst"]: row.get("lladdr") for row in read_ip("-n", net.peer, "neigh")}
                assert known["10.5.0.2"] == known["fd05::2"] == before
                _serve_large(held)
                done = net.run_peer("wget", "-qO-", "http://10.5.0.2:8080/large")
                assert done.stdout == _SERVED, done.stderr

                add_veth(net, "net1", "10.6.0", "fd06:")
                held.await_success("ip addr show net1 | grep 'inet6 fd06::2/64'")
                held.ask("ping", "-c", "1", "-W", "5", "10.6.0.1")
                run_ip("-n", net.pod, "link", "delete", "net1")
                held.await_success("! ip link show net1")
                refused = engine.run_container("true", change=net.join)
                assert "another VM is connected" in refused.err

            assert net.list_links() == {"lo", "eth0"}
            assert read_ip("-n", net.pod, "link", "show", "eth0")[0]["address"] == before
            net.run_peer("ping", "-c", "1", "-W", "5", "10.5.0.2")
            qdiscs = subprocess.run(["tc", "-n", net.pod, "qdisc"], check=True, capture_output=True, timeout=10)
            assert b"clsact" not in qdiscs.stdout
    finally:
        engine.configure("")


def test_the_hosts_kernel_moves_the_packets_under_kvm_where_it_can_and_qemu_where_told_to(engine: Engine) -> None:
    if not (os.environ.get("KATA_LAB") and os.path.exists(_VHOST_NET) and HYPERVISOR == "qemu"):
        pytest.skip(f"NO KVM WITH {_VHOST_NET}, OR NO QEMU: nothing shows who moves a VM's packets; run make test-lab")
    for disabled in ("false", "true"):
        engine.configure(f"disable_vhost_net = {disabled}\n")
        try:
            with (
                make_pod_network(f"{engine.token}-vhost") as net,
                engine.hold("sleep", "1000", change=combine(net.join, grant(*ALL_CAPABILITIES))) as held,
            ):
                add_veth(net, "net1", "10.6.0", "fd06:")
                held.await_success("ip addr show net1 | grep 'inet6 fd06::2/64'")
                place = Path(f"/proc/{engine.find_process('qemu', held.id)}/fd")
                opened = [os.readlink(path) for path in place.iterdir()]
                assert opened.count(_VHOST_NET) == (2 if disabled == "false" else 0)
                for address in ("10.5.0.1", "fd06::1"):
                    held.ask("ping", "-c", "1", "-W", "5", address)
                _serve_large(held)
                for address in ("10.5.0.2", "10.6.0.2"):
                    done = net.run_peer("wget", "-qO-", f"http://{address}:8080/large", timeout=60)
                    assert done.stdout == _SERVED, done.stderr
        finally:
            engine.configure("")


@pytest.mark.skipif(HYPERVISOR != "firecracker", reason=f"{HYPERVISOR.upper()} HAS CARDS WITH SEVERAL QUEUES")
def test_more_queues_than_a_card_has_are_refused(engine: Engine) -> None:
    engine.configure("default_vcpus = 2\nnetwork_queues = 4\n")
    try:
        with make_pod_network(f"{engine.token}-queues") as net:
            refused = engine.run_container("true", change=net.join)
    finally:
        engine.configure("")
    assert refused.code
    assert "network_queues is more than 1 (this hypervisor's cards have one pair of queues)" in refused.err


@pytest.mark.skipif(HYPERVISOR == "firecracker", reason="FIRECRACKER HAS NO CARDS WITH SEVERAL QUEUES")
def test_a_card_has_a_queue_for_each_processor_when_so_configured(engine: Engine) -> None:
    # Those that receive are shown where packets may lie in several buffers: not of Cloud Hypervisor.
    ways = ("tx",) if HYPERVISOR == "clh" else ("rx", "tx")
    engine.configure("default_vcpus = 2\nnetwork_queues = 4\n")
    try:
        with (
            make_pod_network(f"{engine.token}-queues") as net,
            engine.hold("sleep", "1000", change=combine(net.join, grant(*ALL_CAPABILITIES))) as held,
        ):
            queues = set(held.ask("ls", "/sys/class/net/eth0/queues").split())
            processors = int(held.ask("nproc"))  # 2, or 1 on a host with one
            assert queues == {f"{way}-{number}" for way in ways for number in range(processors)}
            held.ask("ping", "-c", "1", "-W", "5", "10.5.0.1")
            answer = net.run_peer("ping", "-c", "1", "-W", "5", "10.5.0.2")
            assert answer.returncode == 0, answer
    finally:
        engine.configure("")


def test_the_model_none_leaves_the_tap_to_be_connected_by_others(engine: Engine) -> None:
    engine.configure('[runtime]\ninternetworking_model = "none"\n')
    try:
        with make_pod_network(f"{engine.token}-none") as net:
            with engine.hold("sleep", "1000", change=combine(net.join, grant(*ALL_CAPABILITIES))) as held:
                assert net.list_links() == {"lo", "eth0", "tap0_kata"}
                assert not net.list_ingress()
                assert "inet 10.5.0.2/24 " in held.ask("ip", "addr", "show", "eth0")
                assert held.execute("ping", "-c", "1", "-W", "1", "10.5.0.1").code != 0

                net.redirect("eth0", "tap0_kata")
                net.redirect("tap0_kata", "eth0")
                held.ask("ping", "-c", "1", "-W", "5", "10.5.0.1")

            assert net.list_links() == {"lo", "eth0"}
            assert net.list_ingress() == {"eth0"}
    finally:
        engine.configure("")


def test_nothing_is_left_in_the_namespace_after_delete(engine: Engine) -> None:
    with make_pod_network(f"{engine.token}-gone") as net:
        with engine.hold("sleep", "1000", change=net.join):
            assert net.list_links() == {"lo", "eth0", "tap0_kata"}
            assert net.list_ingress() == {"eth0", "tap0_kata"}

        assert net.list_links() == {"lo", "eth0"}
        assert not net.list_ingress()


def test_nothing_is_left_in_the_namespace_after_the_daemon_was_killed_and_gc(engine: Engine) -> None:
    with make_pod_network(f"{engine.token}-killed") as net:
        with engine.hold("sleep", "1000", change=net.join) as held:
            kill_process(engine.find_process("serve", held.id))
            held.wait()
            engine.succeed("gc")

            assert net.list_links() == {"lo", "eth0"}
            assert not net.list_ingress()
        with engine.hold("sleep", "1000", change=combine(net.join, grant(*ALL_CAPABILITIES))) as again:
            again.ask("ping", "-c", "1", "-W", "5", "10.5.0.1")


def test_a_namespace_without_links_gives_a_guest_its_loopback_and_nothing_else(engine: Engine) -> None:
    done = engine.run_container("ip", "-o", "link")

    assert done.code == 0, done.err
    assert [line.split()[1] for line in done.text.splitlines()] == ["lo:"]


def test_a_network_namespace_that_is_not_there_is_named(engine: Engine) -> None:
    def change(spec: dict[str, object]) -> None:
        PodNet("absent", "").join(spec)

    refused = engine.run_container("true", change=change)

    assert refused.code == 1
    assert "the network namespace /run/netns/absent cannot be opened" in refused.err


def test_statistics_tell_what_the_host_counted_on_the_pods_links(networked: Container, net: PodNet) -> None:
    def count() -> int:
        shown = subprocess.run(
            ["ip", "-n", net.pod, "-s", "-j", "link", "show", "eth0"], check=True, capture_output=True, timeout=10
        )
        return int(json.loads(shown.stdout)[0]["stats64"]["rx"]["bytes"])

    networked.ask("ping", "-c", "1", "-W", "5", "10.5.0.1")
    before = count()
    shown = json.loads(networked.engine.succeed("events", "--stats", networked.id))["data"]
    told = {card["Name"]: card["RxBytes"] for card in shown["network_interfaces"]}

    assert set(told) == {"eth0", "net1"}
    assert before <= told["eth0"] <= count()
