"""asyncio shells around the ttrpc engines: a client and a server over any stream transport."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from kata.errors import Code, DeadlineError, GuestError, KataError, ProtocolError
from kata.protocol.protobuf import Buffer, Message
from kata.protocol.text import clean_text
from kata.protocol.ttrpc.engine import Answer, Call, ClientEngine, ServerEngine
from kata.sys.unixsocket import shorten_path

Reply = TypeVar("Reply", bound=Message)

_MAX_CALLS = 512
_LARGE = 1 << 14


class Method(NamedTuple):
    """How to serve one method: the request's class, and what turns an instance of it into a response.

    A client that hangs up, or whose timeout is over, ends the handler; one that is `lasting` goes on to its own end.
    """

    request: type[Message]
    handler: Callable[[Any], Awaitable[Message]]
    lasting: bool = False


Services = Mapping[str, Mapping[str, Method]]
"""Methods by service name and method name."""


class Client(asyncio.BufferedProtocol):
    """A ttrpc client. `peer` names the other end in errors; `lost` becomes set when the connection is gone."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.lost = asyncio.Event()
        self._engine = ClientEngine()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._reason: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the signature of asyncio
        return self._engine.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            answers = self._engine.advance(nbytes)
        except ProtocolError as error:
            self._reason = error
            assert self._transport is not None
            self._transport.abort()
            return
        for answer in answers:
            waiting = self._waiting.pop(answer.stream, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._reason = self._reason or exc
        self.lost.set()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(self.describe_loss())
        self._waiting.clear()

    def describe_loss(self) -> KataError:
        """Return why the connection is of no further use."""
        if isinstance(self._reason, ProtocolError):
            return self._reason
        why = f": {self._reason}" if self._reason else ""
        return GuestError(f"{self.peer} closed the connection{why}", status=Code.UNAVAILABLE)

    async def call(
        self, service: str, method: str, request: Message, reply: type[Reply], *, timeout: float | None
    ) -> Reply:
        """Call and wait for the answer, `timeout` seconds at most (None: for ever, the caller cancels).

        Raise GuestError with the peer's status, DeadlineError, or ProtocolError.
        """
        if self._transport is None or self.lost.is_set():
            raise self.describe_loss()
        stream, parts = self._engine.request_parts(service, method, request.encode_parts(), timeout)
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[stream] = waiting
        _send(self._transport, parts)
        try:
            async with asyncio.timeout(timeout):
                answer = await waiting
        except TimeoutError as error:
            raise DeadlineError(f"{self.peer} did not answer {method} within {timeout:g} s") from error
        finally:
            self._waiting.pop(stream, None)
        if answer.code != Code.OK:
            message = clean_text(answer.message) or f"{self.peer} refused {method}"
            raise GuestError(message, status=Code.find(answer.code))
        return reply.decode(answer.payload)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _send(transport: asyncio.Transport, parts: Iterable[Buffer]) -> None:
    """Write one frame. `writelines` would join the parts into a copy."""
    small = bytearray()
    for part in parts:
        if len(part) < _LARGE:
            small += part
        else:
            transport.write(bytes(small))
            transport.write(part)
            small.clear()
    if small:
        transport.write(bytes(small))


def _refuse(stream: int, code: int, message: str) -> list[Buffer]:
    return [ServerEngine.refuse(stream, code, message)]


async def connect_unix(path: str, peer: str, *, timeout: float) -> Client:
    """Connect a client to a Unix socket. Raise GuestError when nobody listens there."""
    loop = asyncio.get_running_loop()
    try:
        with shorten_path(path) as short:
            async with asyncio.timeout(timeout):
                _, client = await loop.create_unix_connection(lambda: Client(peer), short)
    except (OSError, TimeoutError) as error:
        raise GuestError(f"{peer} cannot be reached at {path}: {error}", status=Code.UNAVAILABLE) from error
    return client


async def connect_socket(sock: socket.socket, peer: str) -> Client:
    """Make a client of a connected stream socket of any family (vsock too)."""
    _, client = await asyncio.get_running_loop().create_connection(lambda: Client(peer), sock=sock)
    return client


class ServerConnection(asyncio.BufferedProtocol):
    """One client of a server. Each call runs as a task; reading pauses while too many are under way."""

    def __init__(
        self,
        services: Services,
        on_error: Callable[[Call, Exception], None] | None = None,
        *,
        on_done: Callable[[str, float], None] | None = None,
        shared: bool = False,
    ) -> None:
        """`on_done` is told the method and the seconds of each call.

        `shared` tells that one client may follow another without the connection being closed between them.
        """
        self._services = services
        self._on_error = on_error
        self._on_done = on_done
        self._engine = ServerEngine(shared=shared)
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lasting: set[asyncio.Future[Message]] = set()
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the signature of asyncio
        return self._engine.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        assert self._transport is not None
        clients = self._engine.clients
        try:
            calls = self._engine.advance(nbytes)
        except ProtocolError:
            self._transport.abort()
            return
        if self._engine.clients != clients:
            self._cancel_calls()
        for call in calls:
            self._start(call)
        if len(self._tasks) >= _MAX_CALLS:
            self._transport.pause_reading()

    def _start(self, call: Call) -> None:
        task = asyncio.create_task(self._serve(call))
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature of asyncio
        self.closed.set()
        self._cancel_calls()

    async def finish(self) -> None:
        """Let the calls under way be answered, and close when the answers are out."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._transport is not None:
            self._transport.close()
            await self.closed.wait()

    def _cancel_calls(self) -> None:
        """Nobody waits for these answers: the client is gone."""
        for task in self._tasks:
            task.cancel()

    def _finish(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if len(self._tasks) == _MAX_CALLS - 1 and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    async def _serve(self, call: Call) -> None:
        start = time.monotonic()
        try:
            parts = await self._respond(call)
        except KataError as error:
            parts = _refuse(call.stream, error.code, str(error))
        except TimeoutError:
            parts = _refuse(call.stream, Code.DEADLINE_EXCEEDED, f"{call.method} took longer than its timeout")
        except Exception as error:  # noqa: BLE001 - the dispatcher is one of the two edges where errors end
            if self._on_error is not None:
                self._on_error(call, error)
            parts = _refuse(call.stream, Code.INTERNAL, f"{call.method}: {type(error).__name__}: {error}")
        if self._on_done is not None:
            self._on_done(call.method, time.monotonic() - start)
        if self._transport is not None and not self._transport.is_closing():
            _send(self._transport, parts)

    async def _respond(self, call: Call) -> list[Buffer]:
        """Return the frame that ends a call."""
        return ServerEngine.respond_parts(call.stream, (await self._run(call)).encode_parts())

    async def _run(self, call: Call) -> Message:
        method = self._services.get(call.service, {}).get(call.method)
        if method is None:
            raise _UnknownMethodError(f"{call.service}/{call.method} is not implemented")
        request = method.request.decode(call.payload)
        async with asyncio.timeout(call.timeout):
            if method.lasting:
                return await asyncio.shield(self._begin(call, method.handler(request)))
            return await method.handler(request)

    def _begin(self, call: Call, handling: Awaitable[Message]) -> "asyncio.Future[Message]":
        """Start a handler that nothing ends early. How it failed is reported where no client is left to be told."""
        task = asyncio.ensure_future(handling)
        self._lasting.add(task)

        def see_end(_: object) -> None:
            self._lasting.discard(task)
            error = None if task.cancelled() else task.exception()
            if isinstance(error, Exception) and self.closed.is_set() and self._on_error is not None:
                self._on_error(call, error)

        task.add_done_callback(see_end)
        return task


class _UnknownMethodError(KataError):
    code = Code.UNIMPLEMENTED
