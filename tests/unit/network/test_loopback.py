"""All ports of a namespace's localhost are taken while a listener is open, and nothing else is."""

import socket

import pytest

from kata.network.loopback import LoopbackListener
from netns import enter_network_namespace, run_ip


@pytest.mark.parametrize("place", [("127.0.0.1", 80), ("127.0.0.1", 65535), ("::1", 443)])
def test_any_port_of_a_loopback_address_is_answered_and_told(place: tuple[str, int]) -> None:
    with enter_network_namespace():
        run_ip("link", "set", "lo", "up")
        listener = LoopbackListener()
        try:
            with socket.create_connection(place, timeout=5) as client:
                taken = next(known for known in listener.sockets if known.family == client.family)
                taken.setblocking(True)
                accepted, _ = taken.accept()
                with accepted:
                    assert accepted.getsockname()[:2] == place
        finally:
            listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place, timeout=5)


@pytest.mark.parametrize("address", ["10.5.0.2", "fd05::2", "127.0.0.11"])
def test_other_addresses_of_the_namespace_are_left_alone(address: str) -> None:
    with enter_network_namespace():
        run_ip("link", "set", "lo", "up")
        if not address.startswith("127."):
            run_ip("addr", "add", address, "dev", "lo")
        listener = LoopbackListener()
        try:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address, 80), timeout=5)
        finally:
            listener.close()
