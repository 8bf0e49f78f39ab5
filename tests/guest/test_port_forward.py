"""Who dials localhost in the pod's namespace on the host, as engines do to forward ports, reaches the guest's."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from engine import Container, Engine
from kata.network.namespace import visit_namespace
from podnet import PodNet, make_pod_network

_SIZE = 3_000_000
_SERVERS = """
mkdir -p /w; yes 0123456789abcde | head -c 3000000 > /w/large; echo small > /w/small
httpd -p 127.0.0.1:8080 -h /w
httpd -p [::1]:8081 -h /w
nc -ll -p 8082 -e cat &
nc -ll -p 8083 -e wc -c &
sleep 100000
"""


@pytest.fixture(scope="module")
def net(engine: Engine) -> Iterator[PodNet]:
    with make_pod_network(f"{engine.token}-fwd") as net:
        yield net


@pytest.fixture(scope="module")
def server(engine: Engine, net: PodNet) -> Iterator[Container]:
    with engine.hold("sh", "-c", _SERVERS, change=net.join, name="server") as held:
        held.ask("sh", "-c", "until netstat -ltn | grep -q :8083; do :; done")
        yield held


def dial(net: PodNet, address: str, port: int) -> socket.socket:
    """Connect as an engine does: from the pod's namespace on the host."""
    namespace = os.open(net.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with visit_namespace(namespace):
            return socket.create_connection((address, port), timeout=20)
    finally:
        os.close(namespace)


def get(net: PodNet, address: str, port: int, path: str) -> bytes:
    with dial(net, address, port) as client:
        client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        with client.makefile("rb") as stream:
            return stream.read().partition(b"\r\n\r\n")[2]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("port", [8080, 8081])
def test_a_server_of_either_family_on_the_guests_loopback_answers_to_both(net: PodNet, address: str, port: int) -> None:
    assert get(net, address, port, "/small") == b"small\n"


@pytest.mark.usefixtures("server")
def test_all_of_a_large_answer_comes(net: PodNet) -> None:
    assert get(net, "127.0.0.1", 8080, "/large") == (b"0123456789abcde\n" * (_SIZE // 16 + 1))[:_SIZE]


@pytest.mark.usefixtures("server")
def test_bytes_go_both_ways_on_one_connection(net: PodNet) -> None:
    with dial(net, "127.0.0.1", 8082) as client:
        for word in (b"one", b"two", b"three"):
            client.sendall(word)
            assert client.recv(100) == word


@pytest.mark.usefixtures("server")
def test_the_end_of_what_is_sent_reaches_the_server_and_its_answer_comes_after(net: PodNet) -> None:
    with dial(net, "127.0.0.1", 8083) as client:
        client.sendall(b"x" * 100_000)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as stream:
            assert stream.read().strip() == b"100000"


@pytest.mark.usefixtures("server")
def test_several_connections_are_open_at_once(net: PodNet) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(net, "127.0.0.1", 8080)) for _ in range(20)]
        for client in clients:
            client.sendall(b"GET /small HTTP/1.0\r\n\r\n")
        for client in clients:
            with client.makefile("rb") as stream:
                assert stream.read().endswith(b"small\n")


@pytest.mark.usefixtures("server")
def test_a_port_where_nobody_listens_is_reset_at_once(net: PodNet) -> None:
    with dial(net, "127.0.0.1", 9) as client, pytest.raises(ConnectionResetError):
        client.recv(1)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("address", ["10.5.0.2", "fd05::2"])
def test_no_port_is_open_to_anybody_outside_the_namespace(net: PodNet, address: str) -> None:
    # The guest answers here, and nobody in it listens beyond its loopback.
    done = net.run_peer("nc", "-w", "5", address, "8080")

    assert done.returncode != 0


def test_the_ports_are_free_again_when_the_sandbox_is_gone(engine: Engine) -> None:
    with make_pod_network(f"{engine.token}-free") as net:
        with engine.hold("sleep", "1000", change=net.join):
            dial(net, "127.0.0.1", 8080).close()
        with pytest.raises(ConnectionRefusedError):
            dial(net, "127.0.0.1", 8080)
