"""A process's stdio by containerd's streaming API: what clients send and get, how much, and when they come back."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from kata.errors import ProtocolError, UsageError
from kata.protocol.messages import streaming as wire
from kata.protocol.messages.google import Any, pack_message
from kata.protocol.protobuf import Message
from kata.protocol.ttrpc.engine import Data
from kata.protocol.ttrpc.frame import FrameDecoder
from kata.shim.fifo import Streams
from kata.shim.streams import StreamAttachment, StreamTable
from kata.transport.ttrpc_stream import StreamCall

_TIMEOUT = 20.0
_URI = "ttrpc+unix:///run/s?streaming_id=c-{}"
_ALL = Streams(_URI.format("stdin"), _URI.format("stdout"), _URI.format("stderr"), terminal=False)
Result = TypeVar("Result")


async def _bounded(coming: Awaitable[Result]) -> Result:
    async with asyncio.timeout(_TIMEOUT):
        return await coming


class Client:
    """A client of one stream: what it was sent, and its call, which ends when `leave` is called."""

    def __init__(self, table: StreamTable, name: str) -> None:
        self.data = b""
        self.granted = 0
        self.welcomed = asyncio.Event()
        self._arrived = asyncio.Event()
        self._call = StreamCall(1, self._take)
        self.send(wire.INIT_TYPE, wire.StreamInit(id=name))
        self.served = asyncio.create_task(table.serve(self._call))

    def _take(self, frame: bytes) -> None:
        [decoded] = FrameDecoder().feed(frame)
        packed = Any.decode(decoded.payload)
        if packed.type_url == wire.EMPTY_TYPE:
            self.welcomed.set()
        elif packed.type_url == wire.DATA_TYPE:
            self.data += wire.Data.decode(packed.value).data
        elif packed.type_url == wire.WINDOW_TYPE:
            self.granted += wire.WindowUpdate.decode(packed.value).update
        self._arrived.set()

    def send(self, kind: str, message: Message) -> None:
        self._call.feed(Data(1, pack_message(kind, message).encode(), last=False))

    def grant(self, size: int) -> None:
        self.send(wire.WINDOW_TYPE, wire.WindowUpdate(update=size))

    def write(self, data: bytes) -> None:
        self.send(wire.DATA_TYPE, wire.Data(data=data))

    def leave(self) -> None:
        self._call.feed(Data(1, None, last=True))

    async def wait_for(self, size: int) -> bytes:
        """Wait until so many bytes came, and return them."""
        async with asyncio.timeout(_TIMEOUT):
            while len(self.data) < size:
                self._arrived.clear()
                await self._arrived.wait()
        return self.data

    async def wait_granted(self) -> int:
        """Wait until it may send, and return how much."""
        async with asyncio.timeout(_TIMEOUT):
            while not self.granted:
                self._arrived.clear()
                await self._arrived.wait()
        return self.granted


async def test_a_client_that_came_before_the_process_gets_no_more_than_it_takes_and_then_the_end() -> None:
    table = StreamTable()
    client = Client(table, "c-stdout")
    stdout = StreamAttachment(_ALL, table).stdio.stdout
    assert stdout is not None
    client.grant(3)
    assert await _bounded(stdout.write(b"output"))
    assert await client.wait_for(3) == b"out"
    stdout.close()
    client.grant(100)
    await _bounded(client.served)

    assert client.data == b"output"


async def test_output_waits_for_a_client_and_only_so_much_of_it() -> None:
    table = StreamTable()
    stdout = StreamAttachment(_ALL, table).stdio.stdout
    assert stdout is not None
    assert await _bounded(stdout.write(b"short"))
    writing = asyncio.create_task(stdout.write(bytes(1 << 20)))
    client = Client(table, "c-stdout")
    client.grant(100)
    await client.wait_for(100)
    assert not writing.done()
    client.grant(2 << 20)

    assert await _bounded(writing)
    assert await client.wait_for(5 + (1 << 20)) == b"short" + bytes(1 << 20)
    client.leave()
    await _bounded(client.served)


async def test_a_client_that_comes_in_anothers_place_gets_what_follows() -> None:
    table = StreamTable()
    stdout = StreamAttachment(_ALL, table).stdio.stdout
    assert stdout is not None
    first = Client(table, "c-stdout")
    first.grant(100)
    await stdout.write(b"one")
    await first.wait_for(3)
    second = Client(table, "c-stdout")
    await _bounded(first.served)
    second.grant(100)
    await stdout.write(b"two")

    assert await second.wait_for(3) == b"two"
    second.leave()
    await _bounded(second.served)


async def test_input_may_be_sent_when_the_process_starts_and_ends_when_its_client_has_left_and_it_was_said() -> None:
    table = StreamTable()
    client = Client(table, "c-stdin")
    attachment = StreamAttachment(_ALL, table)
    assert attachment.stdio.stdin is not None
    attachment.open_stdin()
    assert await client.wait_granted() >= 1 << 16
    attachment.close_stdin()
    client.write(b"late")

    assert await _bounded(attachment.stdio.stdin.read()) == b"late"
    client.leave()
    assert await _bounded(attachment.stdio.stdin.read()) == b""
    await _bounded(client.served)


async def test_no_input_is_asked_for_before_the_start_nor_more_than_the_process_reads() -> None:
    table = StreamTable()
    client = Client(table, "c-stdin")
    attachment = StreamAttachment(_ALL, table)
    assert attachment.stdio.stdin is not None
    attachment.open_stdin()
    size = await client.wait_granted()
    client.write(bytes(size))
    client.granted = 0
    reading = asyncio.create_task(attachment.stdio.stdin.read())

    assert len(await _bounded(reading)) == size
    assert await client.wait_granted() == size
    await attachment.close()
    await _bounded(client.served)


async def test_a_closed_attachment_ends_its_clients_and_frees_the_names() -> None:
    table = StreamTable()
    attachment = StreamAttachment(_ALL, table)
    clients = [Client(table, f"c-{name}") for name in ("stdin", "stdout", "stderr")]
    for client in clients:
        await _bounded(client.welcomed.wait())
    await attachment.close()
    for client in clients:
        await _bounded(client.served)

    await StreamAttachment(_ALL, table).close()


@pytest.mark.parametrize("uri", ["ttrpc+unix:///run/s", "ttrpc+unix:///run/s?streaming_id="])
async def test_a_uri_without_a_name_is_refused_and_nothing_is_taken(uri: str) -> None:
    table = StreamTable()
    with pytest.raises(UsageError, match="names no stream"):
        StreamAttachment(Streams(_URI.format("stdin"), uri, "", terminal=False), table)

    await StreamAttachment(_ALL, table).close()


async def test_a_stream_has_one_process() -> None:
    table = StreamTable()
    attachment = StreamAttachment(_ALL, table)
    with pytest.raises(UsageError, match="has a process already"):
        StreamAttachment(_ALL, table)
    await attachment.close()


async def test_a_client_that_says_something_else_is_refused() -> None:
    client = Client(StreamTable(), "c-stdout")
    client.send("t.Unknown", wire.Data())

    with pytest.raises(ProtocolError, match=r"t\.Unknown"):
        await _bounded(client.served)
