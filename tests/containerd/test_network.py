"""A network that somebody else made, by hand or with CNI's plug-ins, is the network of containerd's container."""

import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cni import CNI_RATE, make_cni_network
from containerd.daemon import Containerd
from podnet import make_pod_network

_SERVER_TIMEOUT = 60.0
_LARGE = 1_000_000


def _fetch(url: str) -> bytes:
    """Return what a server of the guest says, as soon as it listens. Until then the guest refuses."""
    deadline = time.monotonic() + _SERVER_TIMEOUT
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                said: bytes = answer.read()
                return said
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > deadline:
                raise


def test_a_container_that_joins_a_namespace_has_its_network(daemon: Containerd) -> None:
    with make_pod_network(f"{daemon.token}-ctr") as net:
        flags = ("--with-ns", f"network:{net.path}", "--cap-add", "CAP_NET_RAW")
        done = daemon.run_container("ping", "-c", "1", "-W", "5", "192.0.2.9", flags=flags)

        assert (done.code, "1 packets received" in done.out) == (0, True), done
        assert net.list_links() == {"lo", "eth0"}
        assert not net.list_ingress()


def test_a_container_on_the_hosts_network_is_refused(daemon: Containerd) -> None:
    done = daemon.run_container("true", flags=("--net-host",))

    assert done.code != 0
    assert "a container on the host's network cannot run in a VM" in done.err


@pytest.mark.timeout(300)
def test_cnis_bridge_addresses_routes_and_port_mapping_reach_the_guest(daemon: Containerd, tmp_path: Path) -> None:
    _check_cni(daemon, tmp_path, "bridge")


@pytest.mark.timeout(300)
def test_so_do_those_of_cnis_point_to_point_link(current: Containerd, tmp_path: Path) -> None:
    _check_cni(current, tmp_path, "ptp")


def _check_cni(daemon: Containerd, tmp_path: Path, kind: str) -> None:
    fill = f"mkdir /w; echo from the guest > /w/index.html; head -c {_LARGE} /dev/zero > /w/large"
    serve = f"{fill}; echo up; exec httpd -f -p 8080 -h /w"
    with (
        make_cni_network(daemon.token, tmp_path, kind) as net,
        daemon.hold("sh", "-c", serve, flags=("--with-ns", f"network:{net.path}")) as name,
    ):
        for host, port in ((net.address, 8080), (net.gateway, net.host_port)):
            assert _fetch(f"http://{host}:{port}/") == b"from the guest\n"
        began = time.monotonic()
        assert len(_fetch(f"http://{net.address}:8080/large")) == _LARGE
        # A bucket lets a tenth of a second's worth through at once.
        assert time.monotonic() - began > 0.8 * _LARGE * 8 / CNI_RATE
        shown = daemon.execute(name, "sh", "-c", "ip addr show eth0; ip route")
        assert f"inet {net.address}/24" in shown.out
        assert "inet6 fd77::" in shown.out
        assert "mtu 1450" in shown.out
        assert f"default via {net.gateway} dev eth0" in shown.out
