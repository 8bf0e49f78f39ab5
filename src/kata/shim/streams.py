"""A process's stdio over the shim's own socket: containerd's streaming API, `io_type = "streaming"` of its CRI.

containerd opens a stream for each of a container's streams, by a name, before it creates the container, and once more
with the same name when it was restarted. Create and Exec then name it as `ttrpc+unix:///PATH?streaming_id=NAME`.

Source: containerd's internal/cri/io/{container_io,streaming}.go and core/transfer/streaming.
"""

import asyncio
from collections import deque
from urllib.parse import parse_qs, urlsplit

from kata.errors import ProtocolError, UsageError
from kata.protocol.messages import streaming as wire
from kata.protocol.messages.google import Any, pack_message
from kata.protocol.messages.types import Empty
from kata.protocol.protobuf import Buffer
from kata.sandbox.attach import Controlled
from kata.sandbox.stdio import Endpoint, Stdio
from kata.shim.fifo import Streams
from kata.transport.ttrpc_stream import StreamCall

_CAPACITY = 1 << 16
"""Bytes of output that wait for a client, as in a pipe."""

_WINDOW = 1 << 18
"""Bytes of input that a client may send before the process has read any."""


class Stream:
    """One stream of a process, of which clients come and go. Bytes go one way, and leave to send them the other."""

    def __init__(self) -> None:
        self.is_attached = False
        self._client: StreamCall | None = None
        self._credit = 0
        self._output = bytearray()
        self._input: deque[bytes] = deque()
        self._granted = 0
        self._takes_input = False
        self._ends_input = False
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def is_used(self) -> bool:
        return self.is_attached or self._client is not None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def serve(self, client: StreamCall) -> None:
        """Send to a client and receive from it until it leaves, another comes, or all is said. Raise ProtocolError."""
        self._client, self._credit, self._granted = client, 0, sum(map(len, self._input))
        self._wake()
        receiving = asyncio.create_task(self._receive(client))
        try:
            while self._client is client:
                self._send_output(client)
                self._grant_input(client)
                if self._closed and not self._output:
                    return
                await self._changed.wait()
            if receiving.done():
                receiving.result()
        finally:
            receiving.cancel()
            self._leave(client)

    async def _receive(self, client: StreamCall) -> None:
        try:
            while (packed := await client.receive(Any)) is not None:
                kind = packed.type_url.rpartition("/")[2]
                if kind == wire.WINDOW_TYPE:
                    self._credit += wire.WindowUpdate.decode(packed.value).update
                elif kind == wire.DATA_TYPE:
                    self._input.append(wire.Data.decode(packed.value).data)
                else:
                    raise ProtocolError(f"a stream of a process is sent {kind}")
                self._wake()
        finally:
            self._leave(client)

    def _leave(self, client: StreamCall) -> None:
        if self._client is client:
            self._client = None
            self._wake()

    def _send_output(self, client: StreamCall) -> None:
        while self._output and self._credit > 0:
            part = bytes(self._output[: self._credit])
            del self._output[: len(part)]
            self._credit -= len(part)
            client.send(pack_message(wire.DATA_TYPE, wire.Data(data=part)))
            self._wake()

    def _grant_input(self, client: StreamCall) -> None:
        more = _WINDOW - self._granted
        if self._takes_input and more >= _WINDOW // 2:
            self._granted += more
            client.send(pack_message(wire.WINDOW_TYPE, wire.WindowUpdate(update=more)))

    async def write(self, data: Buffer) -> bool:
        """Have a client take bytes, waiting until most of them are on their way. Return False when it is closed."""
        rest = memoryview(data)
        while rest and not self._closed:
            room = _CAPACITY - len(self._output)
            if room > 0:
                self._output += rest[:room]
                rest = rest[room:]
                self._wake()
            else:
                await self._changed.wait()
        return not self._closed

    async def read(self) -> bytes:
        """Return bytes that a client sent, none at the end of the input."""
        while not self._input:
            if self._closed or (self._ends_input and self._client is None):
                return b""
            await self._changed.wait()
        data = self._input.popleft()
        self._granted -= len(data)
        self._wake()
        return data

    def open_input(self) -> None:
        """Let the client send."""
        self._takes_input = True
        self._wake()

    def end_input(self) -> None:
        """Let the input end when the client has left and all it sent is read."""
        self._ends_input = True
        self._wake()

    def close(self) -> None:
        """Let clients have what was written, and then the end. May be called again."""
        self._closed = True
        self._wake()


class StreamEndpoint(Endpoint):
    """A stream where a process's descriptor would be."""

    def __init__(self, stream: Stream) -> None:
        # The base's state is that of a descriptor, and there is none.
        self._stream = stream

    async def read(self) -> bytes:
        return await self._stream.read()

    async def write(self, data: Buffer) -> bool:
        return await self._stream.write(data)

    def close(self) -> None:
        self._stream.close()


class StreamTable:
    """The streams of a shim's processes by their names."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}

    async def serve(self, call: StreamCall) -> None:
        """Be a stream's client: the method `Stream`. Raise ProtocolError for one that does not say which."""
        packed = await call.receive(Any)
        if packed is None or packed.type_url.rpartition("/")[2] != wire.INIT_TYPE:
            raise ProtocolError("a stream has to begin with its name")
        name = wire.StreamInit.decode(packed.value).id
        stream = self._streams.setdefault(name, Stream())
        call.send(pack_message(wire.EMPTY_TYPE, Empty()))
        try:
            await stream.serve(call)
        finally:
            if not stream.is_used:
                self._streams.pop(name, None)

    def attach(self, uri: str) -> tuple[str, Stream]:
        """Return the name and the stream that a URI means. Raise UsageError where it means none, or one in use."""
        name = parse_qs(urlsplit(uri).query).get("streaming_id", [""])[0]
        if not name:
            raise UsageError(f"{uri} names no stream", hint="it ends in ?streaming_id=NAME")
        stream = self._streams.setdefault(name, Stream())
        if stream.is_attached:
            raise UsageError(f"the stream {name} has a process already")
        stream.is_attached = True
        return name, stream

    def release(self, name: str) -> None:
        """Forget a stream. A client that it has gets what is left."""
        self._streams.pop(name).close()

    def close(self) -> None:
        """End all streams."""
        for stream in self._streams.values():
            stream.close()


class StreamAttachment:
    """Stands for a process whose stdio goes by streams."""

    def __init__(self, streams: Streams, table: StreamTable) -> None:
        """An empty URI is no stream. Raise UsageError."""
        self._table = table
        self._names: list[str] = []
        self._input: Stream | None = None
        self.stdio = Stdio(None, None, None)
        try:
            if streams.stdin:
                self._input = self._attach(streams.stdin)
                self.stdio.stdin = StreamEndpoint(self._input)
            if streams.stdout:
                self.stdio.stdout = StreamEndpoint(self._attach(streams.stdout))
            if streams.stderr and not streams.terminal:
                self.stdio.stderr = StreamEndpoint(self._attach(streams.stderr))
        except BaseException:
            self._release()
            raise

    def _attach(self, uri: str) -> Stream:
        name, stream = self._table.attach(uri)
        self._names.append(name)
        return stream

    def _release(self) -> None:
        while self._names:
            self._table.release(self._names.pop())

    def open_stdin(self) -> None:
        """Let input in: the process is about to start."""
        if self._input is not None:
            self._input.open_input()

    def close_stdin(self) -> None:
        """Let the process's input end when what was written is read and no client is left."""
        if self._input is not None:
            self._input.end_input()

    def follow(self, process: Controlled) -> None:
        """Nothing comes this way: what the engine wants, it says by the task service."""

    def take_proc(self) -> int | None:
        return None

    def finish(self, status: int | None) -> None:  # noqa: ARG002 - the exit code goes by the task service
        """Let clients read the end. May be called again."""
        self.stdio.close()

    async def close(self) -> None:
        """Let go of everything."""
        self.finish(None)
        self._release()
