"""Calls with many messages each way, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from kata.errors import ProtocolError
from kata.protocol.protobuf import Buffer
from kata.protocol.ttrpc.engine import ClientEngine
from kata.protocol.ttrpc.frame import NO_DATA, REMOTE_CLOSED, Frame, FrameDecoder, Kind
from kata.protocol.ttrpc.messages import KeyValue, Response
from kata.transport.ttrpc import Method
from kata.transport.ttrpc_stream import StreamCall, StreamingConnection

_TIMEOUT = 20.0


class Peer:
    """A client that sends any frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self._engine = ClientEngine()
        self._decoder = FrameDecoder()
        self._frames: list[Frame] = []

    def call(self, method: str, payload: Buffer = b"") -> int:
        stream, data = self._engine.request("t.Test", method, payload, None)
        self.writer.write(data)
        return stream

    def send(self, stream: int, payload: bytes, flags: int = 0) -> None:
        self.writer.write(Frame(stream, Kind.DATA, flags, payload).encode())

    async def receive(self) -> Frame:
        """Return the next frame. Raise EOFError when the server has hung up."""
        async with asyncio.timeout(_TIMEOUT):
            while not self._frames:
                data = await self._reader.read(1 << 16)
                if not data:
                    raise EOFError
                self._frames = self._decoder.feed(data)
        return self._frames.pop(0)


@asynccontextmanager
async def _serve(path: Path, handler: Callable[[StreamCall], Awaitable[None]]) -> AsyncIterator[Peer]:
    async def echo(request: KeyValue) -> KeyValue:
        return request

    def welcome() -> StreamingConnection:
        return StreamingConnection({"t.Test": {"Echo": Method(KeyValue, echo)}}, {"t.Test": {"Stream": handler}})

    server = await asyncio.get_running_loop().create_unix_server(welcome, str(path))
    peer = Peer(*await asyncio.open_unix_connection(str(path)))
    try:
        yield peer
    finally:
        peer.writer.close()
        server.close()


async def _double(call: StreamCall) -> None:
    """Send each key twice until the client sends no more."""
    while (message := await call.receive(KeyValue)) is not None:
        call.send(KeyValue(key=message.key + message.key))


async def test_messages_go_both_ways_until_the_client_ends_and_other_calls_go_on_beside_them(tmp_path: Path) -> None:
    async with _serve(tmp_path / "s", _double) as peer:
        stream = peer.call("Stream")
        peer.send(stream, KeyValue(key="a").encode())
        first = await peer.receive()
        peer.call("Echo", KeyValue(key="beside").encode())
        beside = await peer.receive()
        peer.send(stream, KeyValue(key="b").encode())
        second = await peer.receive()
        peer.send(stream, b"", REMOTE_CLOSED | NO_DATA)
        last = await peer.receive()

    assert [(frame.stream, frame.kind) for frame in (first, second, last)] == 3 * [(stream, Kind.DATA)]
    assert [KeyValue.decode(frame.payload).key for frame in (first, second)] == ["aa", "bb"]
    assert KeyValue.decode(Response.decode(beside.payload).payload).key == "beside"
    assert (last.flags, len(last.payload)) == (REMOTE_CLOSED | NO_DATA, 0)


async def test_a_message_that_comes_after_the_calls_end_changes_nothing(tmp_path: Path) -> None:
    async def end(call: StreamCall) -> None:
        await call.receive(KeyValue)

    async with _serve(tmp_path / "s", end) as peer:
        stream = peer.call("Stream")
        peer.send(stream, KeyValue().encode())
        assert (await peer.receive()).flags == REMOTE_CLOSED | NO_DATA
        peer.send(stream, KeyValue().encode())
        peer.call("Echo", KeyValue(key="still").encode())
        answer = Response.decode((await peer.receive()).payload)

    assert KeyValue.decode(answer.payload).key == "still"


async def test_a_failure_ends_the_call_with_its_reason(tmp_path: Path) -> None:
    async def fail(_: StreamCall) -> None:
        raise ProtocolError("not like this")

    async with _serve(tmp_path / "s", fail) as peer:
        peer.call("Stream")
        frame = await peer.receive()

    status = Response.decode(frame.payload).status
    assert frame.kind == Kind.RESPONSE
    assert status is not None
    assert status.message == "not like this"


async def test_a_client_that_leaves_ends_the_handler(tmp_path: Path) -> None:
    entered, ended = asyncio.Event(), asyncio.Event()

    async def wait(call: StreamCall) -> None:
        entered.set()
        try:
            await call.receive(KeyValue)
        finally:
            ended.set()

    async with _serve(tmp_path / "s", wait) as peer:
        peer.call("Stream")
        async with asyncio.timeout(_TIMEOUT):
            await entered.wait()
            peer.writer.close()
            await ended.wait()


async def test_a_client_that_floods_a_handler_is_hung_up_on(tmp_path: Path) -> None:
    async def ignore(_: StreamCall) -> None:
        await asyncio.Event().wait()

    async with _serve(tmp_path / "s", ignore) as peer:
        stream = peer.call("Stream")
        for _ in range(2000):
            peer.send(stream, b"")
        try:
            await peer.receive()
            hung_up = False
        except (EOFError, ConnectionError):
            hung_up = True

    assert hung_up
