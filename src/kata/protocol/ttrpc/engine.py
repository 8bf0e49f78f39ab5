"""Both ends of a ttrpc connection, without the connection."""

from __future__ import annotations

from collections import namedtuple

from kata.errors import Code, KataError, ProtocolError
from kata.protocol.protobuf import encode_bytes_head
from kata.protocol.ttrpc.frame import (
    MAX_PAYLOAD,
    NO_DATA,
    REMOTE_CLOSED,
    Frame,
    FrameDecoder,
    Kind,
    encode_head,
)
from kata.protocol.ttrpc.messages import Request, Response, Status

TYPE_CHECKING = False  # typing.NamedTuple would cost each command of each pod 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kata.protocol.protobuf import Buffer


class Call(namedtuple("Call", ("stream", "service", "method", "payload", "timeout"))):  # noqa: PYI024 - see above
    """A request as a server sees it. `timeout` is in seconds, None without a limit."""

    __slots__ = ()
    if TYPE_CHECKING:
        stream: int
        service: str
        method: str
        payload: Buffer
        timeout: float | None


class Answer(namedtuple("Answer", ("stream", "code", "message", "payload"))):  # noqa: PYI024 - see above
    """A response as a client sees it. `code` is OK or why there is no payload."""

    __slots__ = ()
    if TYPE_CHECKING:
        stream: int
        code: int
        message: str
        payload: Buffer


class Data(namedtuple("Data", ("stream", "payload", "last"))):  # noqa: PYI024 - see above
    """A message of a call that goes on. `payload` is None where there is only the word that no more come: `last`."""

    __slots__ = ()
    if TYPE_CHECKING:
        stream: int
        payload: Buffer | None
        last: bool


class ClientEngine:
    """Numbers requests and reads responses."""

    def __init__(self) -> None:
        self._next = 1
        self._frames = FrameDecoder()

    def request(self, service: str, method: str, payload: Buffer, timeout: float | None) -> tuple[int, bytes]:
        """Return the stream id and the bytes to send. `timeout` is in seconds."""
        stream, parts = self.request_parts(service, method, (payload,), timeout)
        return stream, b"".join(parts)

    def request_parts(
        self, service: str, method: str, payload: Sequence[Buffer], timeout: float | None
    ) -> tuple[int, list[Buffer]]:
        """Return the stream id and what to send in parts: those of `payload` are in it as they are."""
        nanoseconds = int(timeout * 1e9) if timeout else 0
        size = sum(map(len, payload))
        head = Request(service=service, method=method).encode() + _encode_payload_head(Request, size)
        tail = Request(timeout_nano=nanoseconds).encode()
        total = len(head) + size + len(tail)
        if total > MAX_PAYLOAD:
            raise KataError(f"{service}/{method}: a request of {total} bytes is over ttrpc's limit of {MAX_PAYLOAD}")
        stream, self._next = self._next, self._next + 2
        return stream, [encode_head(stream, Kind.REQUEST, total) + head, *payload, tail]

    def get_buffer(self) -> memoryview:
        """Return where the next bytes are to be received; then call `advance`."""
        return self._frames.get_buffer()

    def advance(self, size: int) -> list[Answer]:
        """Return the answers that the first `size` bytes of the buffer complete. Raise ProtocolError."""
        return self._read(self._frames.advance(size))

    def receive(self, data: Buffer) -> list[Answer]:
        """Return the answers that `data` completes. Raise ProtocolError."""
        return self._read(self._frames.feed(data))

    def _read(self, frames: Iterable[Frame]) -> list[Answer]:
        answers = []
        for frame in frames:
            if frame.kind != Kind.RESPONSE:
                raise ProtocolError(f"ttrpc server sent a frame of kind {frame.kind} on stream {frame.stream}")
            response = Response.decode(frame.payload)
            status = response.status or Status()
            answers.append(Answer(frame.stream, status.code, status.message, response.payload))
        return answers


class ServerEngine:
    """Reads requests and frames responses. `clients` counts those that were seen.

    Clients of a `shared` byte stream may follow one another unseen, as they do on a virtio-serial port. There stream 1
    once more is the first call of a new client; elsewhere it is an error. With `streaming` calls may have messages
    after their request; elsewhere those are an error.
    """

    def __init__(self, *, shared: bool = False, streaming: bool = False) -> None:
        self.clients = 1
        self._shared = shared
        self._streaming = streaming
        self._data: list[Data] = []
        self._last = 0
        self._frames = FrameDecoder()

    def get_buffer(self) -> memoryview:
        """Return where the next bytes are to be received; then call `advance`."""
        return self._frames.get_buffer()

    def advance(self, size: int) -> list[Call]:
        """Return the calls that the first `size` bytes of the buffer complete. Raise ProtocolError."""
        return self._read(self._frames.advance(size))

    def receive(self, data: Buffer) -> list[Call]:
        """Return the calls that `data` completes. Raise ProtocolError."""
        return self._read(self._frames.feed(data))

    def _read(self, frames: Iterable[Frame]) -> list[Call]:
        calls: list[Call] = []
        for frame in frames:
            if frame.kind == Kind.DATA and self._streaming and frame.stream <= self._last:
                payload = None if frame.flags & NO_DATA else frame.payload
                self._data.append(Data(frame.stream, payload, bool(frame.flags & REMOTE_CLOSED)))
                continue
            if frame.kind != Kind.REQUEST:
                raise ProtocolError(f"ttrpc client sent a frame of kind {frame.kind} on stream {frame.stream}")
            if self._shared and self._last and frame.stream == 1:
                self.clients += 1
                self._last = 0
                calls.clear()
            if frame.stream % 2 == 0 or frame.stream <= self._last:
                raise ProtocolError(f"ttrpc client used stream id {frame.stream} after {self._last}")
            self._last = frame.stream
            request = Request.decode(frame.payload)
            timeout = request.timeout_nano / 1e9 if request.timeout_nano > 0 else None
            calls.append(Call(frame.stream, request.service, request.method, request.payload, timeout))
        return calls

    def take_data(self) -> list[Data]:
        """Return the messages that came since the last time, for calls that `receive` or `advance` has returned."""
        data, self._data = self._data, []
        return data

    @staticmethod
    def send(stream: int, payload: Buffer) -> bytes:
        """Return the frame of a message to the client, one of many."""
        return Frame(stream, Kind.DATA, 0, payload).encode()

    @staticmethod
    def end(stream: int) -> bytes:
        """Return the frame that ends a call which had messages, well."""
        return Frame(stream, Kind.DATA, REMOTE_CLOSED | NO_DATA, b"").encode()

    @staticmethod
    def respond(stream: int, payload: Buffer) -> bytes:
        """Return the frame of a response."""
        return b"".join(ServerEngine.respond_parts(stream, (payload,)))

    @staticmethod
    def respond_parts(stream: int, payload: Sequence[Buffer]) -> list[Buffer]:
        """Return the frame of a response in parts: those of `payload` are in it as they are."""
        size = sum(map(len, payload))
        head = _encode_payload_head(Response, size)
        total = len(head) + size
        if total > MAX_PAYLOAD:
            return [ServerEngine.refuse(stream, Code.RESOURCE_EXHAUSTED, f"response of {total} bytes is too large")]
        return [encode_head(stream, Kind.RESPONSE, total) + head, *payload]

    @staticmethod
    def refuse(stream: int, code: int, message: str) -> bytes:
        return Frame(stream, Kind.RESPONSE, 0, Response(status=Status(code=code, message=message)).encode()).encode()


def _encode_payload_head(envelope: type[Request | Response], size: int) -> bytes:
    return encode_bytes_head(envelope, "payload", size) if size else b""
