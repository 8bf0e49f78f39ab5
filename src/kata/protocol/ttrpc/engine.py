"""Both ends of a ttrpc connection, without the connection."""

from __future__ import annotations

from collections import namedtuple

from kata.errors import Code, KataError, ProtocolError
from kata.protocol.protobuf import encode_bytes_head
from kata.protocol.ttrpc.frame import MAX_PAYLOAD, Frame, FrameDecoder, Kind, encode_frame
from kata.protocol.ttrpc.messages import Request, Response, Status

TYPE_CHECKING = False  # typing.NamedTuple would cost each command of each pod 5 ms


class Call(namedtuple("Call", ("stream", "service", "method", "payload", "timeout"))):  # noqa: PYI024 - see above
    """A request as a server sees it. `timeout` is in seconds, None without a limit."""

    __slots__ = ()
    if TYPE_CHECKING:
        stream: int
        service: str
        method: str
        payload: bytes
        timeout: float | None


class Answer(namedtuple("Answer", ("stream", "code", "message", "payload"))):  # noqa: PYI024 - see above
    """A response as a client sees it. `code` is OK or why there is no payload."""

    __slots__ = ()
    if TYPE_CHECKING:
        stream: int
        code: int
        message: str
        payload: bytes


class ClientEngine:
    """Numbers requests and reads responses."""

    def __init__(self) -> None:
        self._next = 1
        self._frames = FrameDecoder()

    def request(self, service: str, method: str, payload: bytes, timeout: float | None) -> tuple[int, bytes]:
        """Return the stream id and the bytes to send. `timeout` is in seconds."""
        stream, self._next = self._next, self._next + 2
        nanoseconds = int(timeout * 1e9) if timeout else 0
        body = Request(service=service, method=method, payload=payload, timeout_nano=nanoseconds).encode()
        if len(body) > MAX_PAYLOAD:
            raise KataError(
                f"{service}/{method}: a request of {len(body)} bytes is over ttrpc's limit of {MAX_PAYLOAD}"
            )
        return stream, Frame(stream, Kind.REQUEST, 0, body).encode()

    def receive(self, data: bytes) -> list[Answer]:
        answers = []
        for frame in self._frames.feed(data):
            if frame.kind != Kind.RESPONSE:
                raise ProtocolError(f"ttrpc server sent a frame of kind {frame.kind} on stream {frame.stream}")
            response = Response.decode(frame.payload)
            status = response.status or Status()
            answers.append(Answer(frame.stream, status.code, status.message, response.payload))
        return answers


class ServerEngine:
    """Reads requests and frames responses. `clients` counts those that were seen.

    Clients of a `shared` byte stream may follow one another unseen, as they do on a virtio-serial port. There stream 1
    once more is the first call of a new client; elsewhere it is an error.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self.clients = 1
        self._shared = shared
        self._last = 0
        self._frames = FrameDecoder()

    def receive(self, data: bytes) -> list[Call]:
        calls: list[Call] = []
        for frame in self._frames.feed(data):
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

    @staticmethod
    def respond(stream: int, payload: bytes) -> bytes:
        # The payload may be a megabyte of output, so the envelope is put round it without encoding it again.
        head = encode_bytes_head(Response, "payload", len(payload)) if payload else b""
        size = len(head) + len(payload)
        if size > MAX_PAYLOAD:
            return ServerEngine.refuse(stream, Code.RESOURCE_EXHAUSTED, f"response of {size} bytes is too large")
        return encode_frame(stream, Kind.RESPONSE, head, payload)

    @staticmethod
    def refuse(stream: int, code: int, message: str) -> bytes:
        return Frame(stream, Kind.RESPONSE, 0, Response(status=Status(code=code, message=message)).encode()).encode()
