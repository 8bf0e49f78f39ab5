"""Connections to the loopback interface: what comes, what goes, and how they end."""

import asyncio
import socket

import pytest

from kata.agent.forward import Forwarder
from kata.errors import NotFoundError, UsageError
from kata.protocol.messages import forward as wire


def _listen(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    return socket.create_server(("127.0.0.1" if family == socket.AF_INET else "::1", 0), family=family)


async def test_bytes_go_both_ways_and_each_direction_ends_by_itself() -> None:
    forwarder = Forwarder()
    with _listen() as server:
        connection = await forwarder.connect(wire.ConnectRequest(port=server.getsockname()[1]))
        accepted, _ = server.accept()
        with accepted:
            await forwarder.write(wire.WriteRequest(id=connection.id, data=b"there"))
            await forwarder.write(wire.WriteRequest(id=connection.id))
            assert accepted.makefile("rb").read() == b"there"
            accepted.sendall(b"back")
            accepted.shutdown(socket.SHUT_WR)
            read = wire.ReadRequest(id=connection.id, len=2)
            assert [(await forwarder.read(read)).data for _ in range(3)] == [b"ba", b"ck", b""]
        await forwarder.close(connection)
        await forwarder.close(connection)
        with pytest.raises(NotFoundError):
            await forwarder.read(wire.ReadRequest(id=connection.id, len=1))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("ipv6", [False, True])
async def test_a_server_of_either_family_is_found(family: socket.AddressFamily, ipv6: bool) -> None:
    forwarder = Forwarder()
    with _listen(family) as server:
        await forwarder.close(await forwarder.connect(wire.ConnectRequest(port=server.getsockname()[1], ipv6=ipv6)))


async def test_a_read_waits_until_there_is_something() -> None:
    forwarder = Forwarder()
    with _listen() as server:
        connection = await forwarder.connect(wire.ConnectRequest(port=server.getsockname()[1]))
        accepted, _ = server.accept()
        reading = asyncio.create_task(forwarder.read(wire.ReadRequest(id=connection.id, len=10)))
        assert not (await asyncio.wait({reading}, timeout=0.05))[0]
        accepted.sendall(b"late")
        assert (await reading).data == b"late"
        accepted.close()
        await forwarder.close(connection)


async def test_a_port_where_nobody_listens_is_named() -> None:
    with _listen() as server:
        port = server.getsockname()[1]
    with pytest.raises(NotFoundError, match=f"nobody listens on port {port}"):
        await Forwarder().connect(wire.ConnectRequest(port=port))


@pytest.mark.parametrize("port", [0, 65536])
async def test_what_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(UsageError, match="is not a TCP port"):
        await Forwarder().connect(wire.ConnectRequest(port=port))
