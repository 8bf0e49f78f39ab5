"""Podman's own networks reach the container: its address, its ports, its names, and its end."""

import json
import shutil
import urllib.request
import uuid
from collections.abc import Iterator

import pytest

from podman.engine import IS_VM, podman, wait_for_log


@pytest.fixture(scope="module")
def network(busybox: str) -> Iterator[str]:
    del busybox
    if not IS_VM:
        pytest.skip("limits of a container with a network are not those of this host's root")
    if shutil.which("ip") is None:
        pytest.skip("NO iproute2: nothing shows whether the network is there")
    name = f"kata-test-{uuid.uuid4().hex[:8]}"
    podman("network", "create", "--disable-dns", "--subnet", "10.99.77.0/24", name)
    try:
        yield name
    finally:
        podman("network", "rm", "-f", name, check=False)


@pytest.fixture(scope="module")
def server(network: str, busybox: str) -> Iterator[str]:
    """A web server with a published port."""
    name = f"{network}-server"
    serve = "mkdir /w; echo from the guest > /w/index.html; httpd -p 8080 -h /w; echo up; sleep 100000"
    podman("run", "-d", "--name", name, "--network", network, "-p", "18099:8080", busybox, "sh", "-c", serve)
    try:
        wait_for_log(name, "up")
        yield name
    finally:
        podman("rm", "-f", "-t", "1", name, check=False)


def test_the_guest_has_the_address_that_podman_tells(server: str) -> None:
    settings = json.loads(podman("inspect", server).out)[0]["NetworkSettings"]["Networks"]
    (told,) = settings.values()
    shown = podman("exec", server, "ip", "addr", "show", "eth0").out

    assert f"inet {told['IPAddress']}/24" in shown
    assert told["MacAddress"] in shown


def test_the_server_is_reached_by_its_address_and_by_its_published_port(server: str) -> None:
    (told,) = json.loads(podman("inspect", server).out)[0]["NetworkSettings"]["Networks"].values()

    for place in (f"{told['IPAddress']}:8080", f"{told['Gateway']}:18099"):
        with urllib.request.urlopen(f"http://{place}/", timeout=10) as answer:
            assert answer.read() == b"from the guest\n"


def test_another_container_of_the_network_reaches_the_server(server: str, network: str, busybox: str) -> None:
    (told,) = json.loads(podman("inspect", server).out)[0]["NetworkSettings"]["Networks"].values()
    asked = podman("run", "--rm", "--network", network, busybox, "wget", "-qO-", f"http://{told['IPAddress']}:8080/")

    assert asked.out == "from the guest"


def test_a_network_is_connected_and_disconnected_while_the_container_runs(server: str, network: str) -> None:
    other = f"{network}-other"
    podman("network", "create", "--disable-dns", "--subnet", "10.99.78.0/24", other)
    try:
        podman("network", "connect", other, server)
        told = json.loads(podman("inspect", server).out)[0]["NetworkSettings"]["Networks"][other]
        podman("exec", server, "sh", "-c", f"until ip addr | grep -q 'inet {told['IPAddress']}/24'; do :; done")
        with urllib.request.urlopen(f"http://{told['IPAddress']}:8080/", timeout=30) as answer:
            assert answer.read() == b"from the guest\n"
        podman("network", "disconnect", other, server)
        podman("exec", server, "sh", "-c", "while ip link show eth1; do :; done")
    finally:
        podman("network", "rm", "-f", other, check=False)


def test_a_vm_cannot_join_the_network_of_another_container(server: str, busybox: str) -> None:
    refused = podman("run", "--rm", "--network", f"container:{server}", busybox, "true", check=False)

    assert refused.code != 0
    assert "another VM is connected" in refused.err


def test_a_container_on_the_hosts_network_is_refused(busybox: str) -> None:
    if not IS_VM:
        pytest.skip("other runtimes run on the host's network")
    refused = podman("run", "--rm", "--network", "host", busybox, "true", check=False)

    assert refused.code != 0
    assert "a container on the host's network cannot run in a VM" in refused.err
