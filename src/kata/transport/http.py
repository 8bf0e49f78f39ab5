"""asyncio shells around HTTP: a server's connection, and one request to a server."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

from kata.errors import Code, DeadlineError, GuestError, KataError
from kata.protocol.http import (
    RefusedError,
    Request,
    RequestReader,
    Response,
    ResponseReader,
    encode_request,
    encode_response,
)
from kata.sys.unixsocket import shorten_path

Handler = Callable[[Request], Awaitable[Response]]
OnError = Callable[[Request, Exception], None]

IDLE_TIMEOUT = 30.0
"""Seconds that a client is given to send a whole request, and to take a whole response."""

_MAX_RESPONSE = 16 << 20
_CHUNK = 1 << 16

_STATUSES = {
    Code.INVALID_ARGUMENT: 400,
    Code.OUT_OF_RANGE: 400,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.FAILED_PRECONDITION: 409,
    Code.UNIMPLEMENTED: 501,
    Code.DATA_LOSS: 502,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
"""HTTP statuses of errors. Source: google.rpc.Code, but for DATA_LOSS: here it is a peer that speaks no protocol."""


def describe_error(error: KataError) -> Response:
    """Return the response that an error becomes: its sentence, and the status nearest to its code."""
    code = error.status if isinstance(error, GuestError) else error.code
    return Response(_STATUSES.get(code, 500), f"{error}\n".encode())


class HttpConnection(asyncio.Protocol):
    """One client of a server. Requests are served one after the other; meanwhile no more than one read is held."""

    def __init__(
        self, handler: Handler, on_error: OnError | None = None, *, idle_timeout: float = IDLE_TIMEOUT
    ) -> None:
        """`handler` raises a KataError for what it refuses; `on_error` is told any other exception."""
        self._handler = handler
        self._on_error = on_error
        self._idle_timeout = idle_timeout
        self._reader = RequestReader()
        self._transport: asyncio.Transport | None = None
        self._serving: asyncio.Task[None] | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._ended = False
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._await_request()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if self._serving is None:
            self._go_on()

    def eof_received(self) -> bool:
        """Keep the way back open: a client may close its half and read on."""
        self._ended = True
        return self._serving is not None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature of asyncio
        self.closed = True
        self._disarm()
        if self._serving is not None:
            self._serving.cancel()

    def close(self) -> None:
        """Drop the client, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def _go_on(self) -> None:
        """Serve the next request if it is whole."""
        assert self._transport is not None
        try:
            request = self._reader.next()
        except RefusedError as error:
            self._send(Response(error.status, f"{error}\n".encode()), close=True)
            return
        if request is None:
            interim = self._reader.take_interim()
            if interim:
                self._transport.write(interim)
            return
        self._disarm()
        self._transport.pause_reading()
        self._serving = asyncio.create_task(self._serve(request))

    async def _serve(self, request: Request) -> None:
        try:
            response = await self._handler(request)
        except KataError as error:
            response = describe_error(error)
        except Exception as error:  # noqa: BLE001 - an edge where errors end: the client is told, the log too
            if self._on_error is not None:
                self._on_error(request, error)
            response = Response(500, f"{request.method} {request.path} failed: {type(error).__name__}\n".encode())
        self._serving = None
        self._send(response, close=request.last or self._ended, head_only=request.method == "HEAD")

    def _send(self, response: Response, *, close: bool, head_only: bool = False) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return
        self._transport.write(encode_response(response, close=close, head_only=head_only))
        self._await_request()
        if close:
            self._transport.close()
        else:
            self._transport.resume_reading()
            self._go_on()

    def _await_request(self) -> None:
        """Give the client its time, to take what was sent and to send what is next."""
        self._disarm()
        self._limit = asyncio.get_running_loop().call_later(self._idle_timeout, self._give_up)

    def _disarm(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _give_up(self) -> None:
        assert self._transport is not None
        if not self._reader.is_idle and not self._transport.is_closing():
            seconds = f"{self._idle_timeout:g}"
            self._transport.write(
                encode_response(Response(408, f"no whole request came within {seconds} s\n".encode()), close=True)
            )
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()


async def fetch(
    path: str,
    target: str,
    peer: str,
    *,
    timeout: float,
    method: str = "GET",
    body: bytes = b"",
    max_body: int = _MAX_RESPONSE,
    descriptors: Sequence[int] = (),
) -> Response:
    """Send one request to the server at a Unix socket, and return its response, whatever its status.

    `descriptors` travel with it as SCM_RIGHTS (unix(7)). All of it takes `timeout` seconds at most. `peer` names the
    server in errors. Raise GuestError where nobody listens, DeadlineError, or ProtocolError.
    """
    try:
        async with asyncio.timeout(timeout):
            request = encode_request(method, target, body=body)
            return await _fetch(path, request, ResponseReader(max_body=max_body), descriptors)
    except TimeoutError as error:
        raise DeadlineError(f"{peer} did not answer {target} within {timeout:g} s") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise GuestError(f"{peer} cannot be reached at {path}: {reason}", status=Code.UNAVAILABLE) from error


async def _fetch(path: str, request: bytes, reader: ResponseReader, descriptors: Sequence[int]) -> Response:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as client:
        with shorten_path(path) as short:
            await loop.sock_connect(client, short)
        if descriptors:  # one byte, so that the rest is sent however much the socket takes
            socket.send_fds(client, [request[:1]], descriptors)
            request = request[1:]
        await loop.sock_sendall(client, request)
        while True:
            response = reader.feed(await loop.sock_recv(client, _CHUNK))
            if response is not None:
                return response
