"""The clients of a server over real sockets, when it ends."""

import asyncio
from pathlib import Path

from kata.protocol.protobuf import Message
from kata.protocol.ttrpc.messages import KeyValue
from kata.transport.clients import Clients
from kata.transport.ttrpc import Method, ServerConnection, connect_unix


async def test_calls_under_way_are_answered_before_a_server_leaves(tmp_path: Path) -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def wait(request: Message) -> Message:
        entered.set()
        await release.wait()
        return request

    clients = Clients(lambda: ServerConnection({"t.Test": {"Wait": Method(KeyValue, wait)}}))
    server = await asyncio.get_running_loop().create_unix_server(clients.welcome, str(tmp_path / "s"))
    gone, client = [await connect_unix(str(tmp_path / "s"), "the server", timeout=20) for _ in range(2)]
    gone.close()
    call = asyncio.create_task(client.call("t.Test", "Wait", KeyValue(key="a"), KeyValue, timeout=20))
    await entered.wait()
    leaving = asyncio.create_task(clients.take_leave())
    await asyncio.sleep(0)
    assert not leaving.done()
    release.set()
    assert (await call).key == "a"
    await leaving
    await asyncio.wait_for(client.lost.wait(), 20)
    server.close()
