"""A network that somebody else made, by hand or with CNI's plug-ins, is the network of containerd's container."""

import urllib.request
from pathlib import Path

from cni import make_cni_network
from containerd.daemon import Containerd
from podnet import make_pod_network


def test_a_container_that_joins_a_namespace_has_its_network(daemon: Containerd) -> None:
    with make_pod_network(f"{daemon.token}-ctr") as net:
        flags = ("--with-ns", f"network:{net.path}", "--cap-add", "CAP_NET_RAW")
        done = daemon.run_container("ping", "-c", "1", "-W", "5", "192.0.2.9", flags=flags)

        assert (done.code, "1 packets received" in done.out) == (0, True), done
        assert net.list_links() == {"lo", "eth0"}
        assert not net.list_ingress()


def test_a_container_on_the_hosts_network_has_its_loopback_only(daemon: Containerd) -> None:
    done = daemon.run_container("ip", "-o", "link", flags=("--net-host",))

    assert [line.split()[1] for line in done.out.splitlines()] == ["lo:"]


def test_cnis_bridge_address_routes_and_port_mapping_reach_the_guest(daemon: Containerd, tmp_path: Path) -> None:
    serve = "mkdir /w; echo from the guest > /w/index.html; echo up; exec httpd -f -p 8080 -h /w"
    with (
        make_cni_network(daemon.token, tmp_path) as net,
        daemon.hold("sh", "-c", serve, flags=("--with-ns", f"network:{net.path}")) as name,
    ):
        shown = daemon.execute(
            name, "sh", "-c", "until wget -qO /dev/null http://127.0.0.1:8080/; do :; done; ip addr show eth0; ip route"
        )
        assert f"inet {net.address}/24" in shown.out
        assert "inet6 fd77::" in shown.out
        assert "mtu 1450" in shown.out
        assert f"default via {net.gateway} dev eth0" in shown.out
        for host, port in ((net.address, 8080), (net.gateway, net.host_port)):
            with urllib.request.urlopen(f"http://{host}:{port}/", timeout=10) as answer:
                assert answer.read() == b"from the guest\n"
