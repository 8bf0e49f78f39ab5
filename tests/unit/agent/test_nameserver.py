"""Name servers of the host at addresses of the guest, in a namespace of the test's own. The test is the host."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import pytest

from kata.agent.nameserver import NameServers
from kata.errors import UsageError
from kata.protocol.messages import nameserver as wire
from kata.protocol.messages.types import Empty
from kata.transport.nameserver import read_message, write_message
from netns import enter_network_namespace, run_ip

_PLACE = ("127.0.0.11", 53)
_MOST = 64
T = TypeVar("T")


@pytest.fixture
async def servers() -> AsyncIterator[NameServers]:
    """What answers at 127.0.0.11 and 127.0.0.12."""
    with enter_network_namespace():
        run_ip("link", "set", "lo", "up")
        servers = NameServers()
        await servers.serve(wire.Addresses(addresses=["127.0.0.11", "127.0.0.12"]))
        yield servers
        await servers.serve(wire.Addresses())


async def _in_time(work: Awaitable[T]) -> T:
    return await asyncio.wait_for(work, 10)


def _open(kind: socket.SocketKind, place: tuple[str, int] = _PLACE) -> socket.socket:
    client = socket.socket(socket.AF_INET, kind)
    client.connect(place)
    client.setblocking(False)
    return client


async def _answer(servers: NameServers, change: Callable[[bytes], bytes]) -> wire.Query:
    query = await _in_time(servers.next_query(Empty()))
    await servers.answer(wire.Answer(id=query.id, data=change(query.data)))
    return query


@pytest.mark.parametrize("address", ["127.0.0.11", "127.0.0.12"])
async def test_a_datagram_is_handed_to_the_host_and_answered_from_where_it_was_sent(
    servers: NameServers, address: str
) -> None:
    loop = asyncio.get_running_loop()
    with _open(socket.SOCK_DGRAM, (address, 53)) as client:
        await loop.sock_sendall(client, b"who?")
        query = await _answer(servers, lambda data: data + b" me" + bytes(20_000))

        assert (query.address, query.tcp, query.data) == (address, False, b"who?")
        assert await _in_time(loop.sock_recv(client, 30_000)) == b"who? me" + bytes(20_000)


async def test_a_connection_has_one_query_after_the_other(servers: NameServers) -> None:
    with _open(socket.SOCK_STREAM) as client:
        for number in range(3):
            await write_message(client, b"who %d" % number + bytes(40_000))
            query = await _answer(servers, lambda data: data[:5] + b"!")
            assert (query.address, query.tcp) == ("127.0.0.11", True)
            assert await _in_time(read_message(client)) == b"who %d!" % number
        await write_message(client, b"last")
        await _answer(servers, lambda _: b"")
        assert await _in_time(read_message(client)) == b""


async def test_a_name_server_of_a_container_has_its_own_port_and_all_other_addresses(servers: NameServers) -> None:
    del servers
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own, socket.create_server(("", 53)) as listening:
        own.bind(("", 53))
        own.settimeout(10)
        listening.settimeout(10)
        with _open(socket.SOCK_DGRAM, ("127.0.0.1", 53)) as client:
            client.send(b"mine")
            assert own.recv(10) == b"mine"
        with _open(socket.SOCK_STREAM, ("127.0.0.1", 53)):
            listening.accept()[0].close()


async def test_so_many_queries_at_once_are_handed_over_and_more_are_dropped(servers: NameServers) -> None:
    loop = asyncio.get_running_loop()
    with _open(socket.SOCK_DGRAM) as client:
        for number in range(_MOST + 20):
            await loop.sock_sendall(client, b"%d" % number)
            await asyncio.sleep(0)
        queries = [await _in_time(servers.next_query(Empty())) for _ in range(_MOST)]
        more = asyncio.create_task(servers.next_query(Empty()))
        assert not (await asyncio.wait({more}, timeout=0.2))[0]
        for query in queries:
            await servers.answer(wire.Answer(id=query.id, data=b"yes"))
            assert await _in_time(loop.sock_recv(client, 10)) == b"yes"
        await loop.sock_sendall(client, b"again")
        assert (await _in_time(more)).data == b"again"


async def test_addresses_that_are_given_up_refuse(servers: NameServers) -> None:
    await servers.serve(wire.Addresses(addresses=["127.0.0.12"]))

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(_PLACE, timeout=10)
    with _open(socket.SOCK_STREAM, ("127.0.0.12", 53)) as client:
        await write_message(client, b"who?")
        await _answer(servers, lambda _: b"me")
        assert await _in_time(read_message(client)) == b"me"


@pytest.mark.parametrize("addresses", [["10.5.0.1"], ["::1"], ["nowhere"], [f"127.0.0.{last}" for last in range(9)]])
async def test_what_is_not_on_loopback_or_too_much_is_refused(servers: NameServers, addresses: list[str]) -> None:
    with pytest.raises(UsageError):
        await servers.serve(wire.Addresses(addresses=addresses))
