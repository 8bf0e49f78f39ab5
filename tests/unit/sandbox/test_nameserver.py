"""What a guest may ask of name servers in the pod's namespace, here one of the test's own. The test is the guest."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kata.observe.log import Log
from kata.protocol.messages import nameserver as wire
from kata.protocol.messages.types import Empty
from kata.sandbox.nameserver import NameRelay
from kata.transport.nameserver import read_message, write_message
from kata.transport.ttrpc import Method, ServerConnection
from netns import enter_network_namespace, run_ip
from peer import open_guest


@dataclass
class _Guest:
    """An agent that asks what it likes. `told` is where it was told to listen, `answers` what it heard."""

    asked: asyncio.Queue[wire.Query] = field(default_factory=asyncio.Queue)
    told: asyncio.Queue[list[str]] = field(default_factory=asyncio.Queue)
    answers: asyncio.Queue[tuple[int, bytes]] = field(default_factory=asyncio.Queue)

    async def serve(self, request: wire.Addresses) -> Empty:
        self.told.put_nowait(request.addresses)
        return Empty()

    async def next_query(self, _: Empty) -> wire.Query:
        return await self.asked.get()

    async def answer(self, request: wire.Answer) -> Empty:
        self.answers.put_nowait((request.id, request.data))
        return Empty()

    async def ask(self, address: str, data: bytes, *, tcp: bool = False) -> bytes:
        """Return the answer to a query."""
        self.asked.put_nowait(wire.Query(id=7, address=address, tcp=tcp, data=data))
        number, answer = await asyncio.wait_for(self.answers.get(), 10)
        assert number == 7
        return answer


class _Server(asyncio.DatagramProtocol):
    """A name server that returns what it is asked, after a word. `asked` is what it was asked."""

    transport: asyncio.DatagramTransport

    def __init__(self) -> None:
        self.asked: asyncio.Queue[bytes] = asyncio.Queue()
        self.is_silent = False

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.asked.put_nowait(data)
        if not self.is_silent:
            self.transport.sendto(b"said " + data, address)


@dataclass
class _Pod:
    """A guest, its relay, and name servers of the namespace by their addresses."""

    guest: _Guest
    relay: NameRelay
    servers: dict[str, _Server]
    resolv_conf: Path


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[_Pod]:
    guest, path, resolv_conf = _Guest(), str(tmp_path / "agent.sock"), tmp_path / "resolv.conf"
    services = {
        wire.SERVICE: {
            "Serve": Method(wire.Addresses, guest.serve),
            "NextQuery": Method(Empty, guest.next_query),
            "Answer": Method(wire.Answer, guest.answer),
        }
    }
    loop = asyncio.get_running_loop()
    agent = await loop.create_unix_server(lambda: ServerConnection(services), path)
    with enter_network_namespace():
        run_ip("link", "set", "lo", "up")
        run_ip("addr", "add", "10.5.0.2/24", "dev", "lo")
        servers = {}
        for address in ("127.0.0.11", "127.0.0.12", "127.0.0.1", "10.5.0.2"):
            transport, servers[address] = await loop.create_datagram_endpoint(_Server, (address, 53))
            servers[address].transport = transport
        resolv_conf.write_text(
            "search test\nnameserver 127.0.0.11\nnameserver 127.0.0.1\nnameserver 127.0.0.9\nnameserver 10.5.0.2\n"
        )
        relay = NameRelay(Log("s", "test"))
        relay.add({"mounts": [{"destination": "/etc/resolv.conf", "source": str(resolv_conf)}]})
        opened = await open_guest(path)
        await relay.follow(opened)
        yield _Pod(guest, relay, servers, resolv_conf)
        relay.close()
        for server in servers.values():
            server.transport.close()
        opened.client.close()
        await opened.client.lost.wait()
    agent.close()


async def test_servers_on_loopback_that_are_there_are_offered_and_asked(pod: _Pod) -> None:
    assert pod.guest.told.get_nowait() == ["127.0.0.11"]
    assert await pod.guest.ask("127.0.0.11", b"who?") == b"said who?"


async def test_a_query_by_tcp_is_asked_by_tcp(pod: _Pod) -> None:
    async def answer() -> None:
        with listener, (await asyncio.get_running_loop().sock_accept(listener))[0] as connection:
            await write_message(connection, await read_message(connection) + bytes(60_000))

    listener = socket.create_server(("127.0.0.11", 53))
    listener.setblocking(False)
    answering = asyncio.create_task(answer())
    assert await pod.guest.ask("127.0.0.11", b"who?", tcp=True) == b"who?" + bytes(60_000)
    await answering


@pytest.mark.parametrize("address", ["127.0.0.12", "127.0.0.1", "10.5.0.2", "127.0.0.9", "nonsense", ""])
async def test_nothing_is_asked_that_was_not_offered(pod: _Pod, address: str) -> None:
    assert await pod.guest.ask(address, b"who?") == b""
    assert all(server.asked.empty() for server in pod.servers.values())


async def test_more_than_a_message_is_not_asked_and_a_server_that_has_gone_does_not_answer(pod: _Pod) -> None:
    assert await pod.guest.ask("127.0.0.11", bytes(65_536)) == b""
    pod.servers["127.0.0.11"].transport.abort()
    assert await pod.guest.ask("127.0.0.11", b"who?") == b""
    assert await pod.guest.ask("127.0.0.11", b"who?", tcp=True) == b""


async def test_so_many_queries_are_asked_at_once_and_others_wait(pod: _Pod) -> None:
    server = pod.servers["127.0.0.11"]
    server.is_silent = True
    for _ in range(40):
        pod.guest.asked.put_nowait(wire.Query(id=7, address="127.0.0.11", data=b"who?"))
    for _ in range(32):
        await asyncio.wait_for(server.asked.get(), 10)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(server.asked.get(), 0.3)


async def test_a_resolv_conf_that_changes_is_followed_a_little_later(pod: _Pod) -> None:
    await asyncio.wait_for(pod.guest.told.get(), 10)
    pod.resolv_conf.write_text("nameserver 127.0.0.12\n")

    assert await asyncio.wait_for(pod.guest.told.get(), 10) == ["127.0.0.12"]
    assert await pod.guest.ask("127.0.0.12", b"who?") == b"said who?"
    assert await pod.guest.ask("127.0.0.11", b"who?") == b""


async def test_of_an_endless_resolv_conf_the_beginning_counts(pod: _Pod) -> None:
    await asyncio.wait_for(pod.guest.told.get(), 10)
    pod.resolv_conf.write_bytes(b"\xff\n" * 40_000 + b"nameserver 127.0.0.12\n")

    assert await asyncio.wait_for(pod.guest.told.get(), 10) == []
