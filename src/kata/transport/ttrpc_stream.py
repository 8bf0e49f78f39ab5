"""A ttrpc server that also has methods with many messages each way."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from kata.errors import ProtocolError
from kata.protocol.protobuf import Buffer, Message
from kata.protocol.ttrpc.engine import Call, Data, ServerEngine
from kata.transport.ttrpc import ServerConnection, Services

_MAX_WAITING = 1024
"""Messages of a call that its handler has not taken yet; who sends more does not keep to any window."""

Received = TypeVar("Received", bound=Message)


class StreamCall:
    """A call under way, as its handler sees it."""

    def __init__(self, stream: int, write: Callable[[bytes], None]) -> None:
        self._stream = stream
        self._write = write
        self._waiting: deque[Buffer] = deque()
        self._ended = False
        self._arrived = asyncio.Event()

    async def receive(self, kind: type[Received]) -> Received | None:
        """Return the client's next message, None when it sends no more. Raise ProtocolError."""
        while not self._waiting:
            if self._ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return kind.decode(self._waiting.popleft())

    def send(self, message: Message) -> None:
        """Send a message. What the client does not read waits in memory: ask it first how much it takes."""
        self._write(ServerEngine.send(self._stream, message.encode()))

    def feed(self, data: Data) -> None:
        """Take what came from the client. Raise ProtocolError where too much of it waits."""
        if data.payload is not None:
            if len(self._waiting) >= _MAX_WAITING:
                raise ProtocolError(f"{_MAX_WAITING} messages of one ttrpc call wait to be taken")
            self._waiting.append(data.payload)
        self._ended = self._ended or data.last
        self._arrived.set()


StreamServices = Mapping[str, Mapping[str, Callable[[StreamCall], Awaitable[None]]]]
"""Handlers by service name and method name. A handler's return ends the call; so does the client's leaving."""


class StreamingConnection(ServerConnection):
    """One client of a server that has both kinds of methods."""

    def __init__(
        self,
        services: Services,
        streams: StreamServices,
        on_error: Callable[[Call, Exception], None] | None = None,
        *,
        on_done: Callable[[str, float], None] | None = None,
    ) -> None:
        super().__init__(services, on_error, on_done=on_done)
        self._engine = ServerEngine(streaming=True)
        self._streams = streams
        self._open: dict[int, StreamCall] = {}

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        try:
            for data in self._engine.take_data():
                if data.stream in self._open:  # else the call has ended, and the client did not know yet
                    self._open[data.stream].feed(data)
        except ProtocolError:
            assert self._transport is not None
            self._transport.abort()

    def _start(self, call: Call) -> None:
        if call.method in self._streams.get(call.service, {}):
            self._open[call.stream] = StreamCall(call.stream, self._write)
        super()._start(call)

    def _write(self, frame: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    async def _respond(self, call: Call) -> list[Buffer]:
        stream = self._open.get(call.stream)
        if stream is None:
            return await super()._respond(call)
        try:
            await self._streams[call.service][call.method](stream)
        finally:
            del self._open[call.stream]
        return [ServerEngine.end(call.stream)]
