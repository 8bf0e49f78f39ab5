"""ttrpc over real sockets: what a caller and a server see when things go right, and when they do not."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kata.errors import Code, DeadlineError, GuestError, NotFoundError, ProtocolError
from kata.protocol.protobuf import Buffer, Message
from kata.protocol.ttrpc.engine import Call, ClientEngine
from kata.protocol.ttrpc.frame import Frame, Kind
from kata.protocol.ttrpc.messages import KeyValue
from kata.transport.ttrpc import Client, Method, ServerConnection, Services, connect_socket, connect_unix


class Handlers:
    """The services under test, and what happened to them."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.reported = asyncio.Event()
        self.running = 0
        self.most_running = 0
        self.errors: list[tuple[str, Exception]] = []
        self.services: Services = {
            "t.Test": {
                "Echo": Method(KeyValue, self.echo),
                "Wait": Method(KeyValue, self.wait),
                "Finish": Method(KeyValue, self.finish, lasting=True),
                "Missing": Method(KeyValue, self.miss),
                "Broken": Method(KeyValue, self.break_down),
            }
        }

    async def echo(self, request: Message) -> Message:
        return request

    async def wait(self, request: Message) -> Message:
        self.entered.set()
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.running -= 1
        return request

    async def finish(self, request: Message) -> Message:
        """Wait as `wait` does, then fail."""
        await self.wait(request)
        raise ZeroDivisionError("too late")

    async def miss(self, request: Message) -> Message:
        assert isinstance(request, KeyValue)
        raise NotFoundError(f"there is no {request.key}", hint="look elsewhere")

    async def break_down(self, request: Message) -> Message:
        raise ZeroDivisionError("oops")

    def note(self, call: Call, error: Exception) -> None:
        self.errors.append((call.method, error))
        self.reported.set()


@asynccontextmanager
async def connect(handlers: Handlers) -> AsyncIterator[tuple[Client, ServerConnection]]:
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, server = await loop.create_connection(lambda: ServerConnection(handlers.services, handlers.note), sock=theirs)
    client = await connect_socket(ours, "the test server")
    try:
        yield client, server
    finally:
        client.close()
        async with asyncio.timeout(5):
            await server.closed.wait()


async def call(client: Client, method: str, key: str = "k", timeout: float | None = 5) -> KeyValue:
    return await client.call("t.Test", method, KeyValue(key=key), KeyValue, timeout=timeout)


async def test_a_call_is_answered_with_what_the_handler_returned() -> None:
    async with connect(Handlers()) as (client, _):
        assert await call(client, "Echo", "hello") == KeyValue(key="hello")


async def test_five_hundred_concurrent_calls_each_get_their_own_answer() -> None:
    async with connect(Handlers()) as (client, _):
        answers = await asyncio.gather(*(call(client, "Echo", str(n), 20) for n in range(500)))

    assert [answer.key for answer in answers] == [str(n) for n in range(500)]


async def test_a_slow_call_does_not_hold_up_a_quick_one() -> None:
    handlers = Handlers()
    async with connect(handlers) as (client, _):
        slow = asyncio.create_task(call(client, "Wait"))
        await handlers.entered.wait()

        assert (await call(client, "Echo", "quick")).key == "quick"

        handlers.release.set()
        assert (await slow).key == "k"


async def test_more_calls_than_a_connection_may_have_wait_and_are_served_later() -> None:
    handlers = Handlers()
    async with connect(handlers) as (client, _):
        calls = [asyncio.create_task(call(client, "Wait", "x" * 60000, 20)) for _ in range(700)]
        await handlers.entered.wait()
        handlers.release.set()
        await asyncio.gather(*calls)

    assert handlers.most_running < 700


async def test_an_error_of_ours_becomes_its_status_and_sentence() -> None:
    async with connect(Handlers()) as (client, _):
        with pytest.raises(GuestError, match=r"there is no cat \(look elsewhere\)") as caught:
            await call(client, "Missing", "cat")

    assert caught.value.status is Code.NOT_FOUND


async def test_what_a_terminal_would_obey_in_an_error_is_shown_as_question_marks() -> None:
    async with connect(Handlers()) as (client, _):
        with pytest.raises(GuestError) as caught:
            await client.call("t.Test", "Missing", KeyValue(key="\x1b]0;title\x07\r\n\u202eevil"), KeyValue, timeout=5)
    assert caught.value.message == "there is no ?]0;title????evil (look elsewhere)"


async def test_an_unforeseen_error_is_reported_and_becomes_internal() -> None:
    handlers = Handlers()
    async with connect(handlers) as (client, _):
        with pytest.raises(GuestError, match="Broken: ZeroDivisionError: oops") as caught:
            await call(client, "Broken")

    assert caught.value.status is Code.INTERNAL
    [(method, error)] = handlers.errors
    assert method == "Broken"
    assert isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize("service", ["t.Test", "t.Other"])
async def test_an_unknown_method_is_unimplemented(service: str) -> None:
    async with connect(Handlers()) as (client, _):
        with pytest.raises(GuestError, match=f"{service}/Nothing is not implemented") as caught:
            await client.call(service, "Nothing", KeyValue(), KeyValue, timeout=5)

    assert caught.value.status is Code.UNIMPLEMENTED


async def test_a_request_that_cannot_be_read_is_refused_and_the_connection_lives_on() -> None:
    class Garbage(Message):
        def encode_parts(self) -> list[Buffer]:
            return [b"\x0a\x7f"]

    async with connect(Handlers()) as (client, _):
        with pytest.raises(GuestError, match="ends inside field 1") as caught:
            await client.call("t.Test", "Echo", Garbage(), KeyValue, timeout=5)

        assert caught.value.status is Code.DATA_LOSS
        assert (await call(client, "Echo")).key == "k"


async def test_a_caller_stops_waiting_at_its_deadline_and_the_handler_is_cancelled() -> None:
    handlers = Handlers()
    async with connect(handlers) as (client, _):
        with pytest.raises(DeadlineError, match=r"the test server did not answer Wait within 0\.05 s"):
            await call(client, "Wait", timeout=0.05)
        async with asyncio.timeout(5):
            await handlers.cancelled.wait()

        assert (await call(client, "Echo")).key == "k"


async def test_a_caller_that_hangs_up_cancels_its_calls() -> None:
    handlers = Handlers()
    async with connect(handlers) as (client, _):
        waiting = asyncio.create_task(call(client, "Wait"))
        await handlers.entered.wait()
        client.close()
        async with asyncio.timeout(5):
            await handlers.cancelled.wait()
        with pytest.raises(GuestError):
            await waiting


async def test_a_lasting_call_goes_on_after_its_deadline() -> None:
    handlers = Handlers()
    async with connect(handlers) as (client, _):
        with pytest.raises(DeadlineError):
            await client.call("t.Test", "Finish", KeyValue(), KeyValue, timeout=0.01)
        await handlers.entered.wait()

        assert handlers.running == 1
        handlers.release.set()
        assert not handlers.cancelled.is_set()


async def test_a_lasting_call_goes_on_when_its_client_leaves_and_its_failure_is_reported() -> None:
    handlers = Handlers()
    async with connect(handlers) as (client, _):
        calling = asyncio.create_task(client.call("t.Test", "Finish", KeyValue(), KeyValue, timeout=None))
        await handlers.entered.wait()
        client.close()
        with pytest.raises(GuestError):
            await calling
        handlers.release.set()
        async with asyncio.timeout(5):
            await handlers.reported.wait()

        assert not handlers.cancelled.is_set()
        assert [method for method, _ in handlers.errors] == ["Finish"]


async def test_a_new_client_on_a_shared_stream_cancels_the_calls_of_the_one_before() -> None:
    handlers = Handlers()
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: ServerConnection(handlers.services, shared=True), sock=theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    async with asyncio.timeout(5):
        writer.write(ClientEngine().request("t.Test", "Wait", b"", None)[1])
        await handlers.entered.wait()
        writer.write(ClientEngine().request("t.Test", "Echo", b"", None)[1])
        await handlers.cancelled.wait()
        [answer] = ClientEngine().receive(await reader.read(1000))
    writer.close()

    assert (answer.stream, answer.code) == (1, Code.OK)


async def test_a_server_that_goes_away_fails_the_calls_under_way_and_those_after() -> None:
    ours, theirs = socket.socketpair()
    client = await connect_socket(ours, "the agent")
    waiting = asyncio.create_task(call(client, "Wait"))
    await asyncio.get_running_loop().sock_recv(_unblock(theirs), 1)
    theirs.close()

    for attempt in (waiting, call(client, "Wait")):
        with pytest.raises(GuestError, match="the agent closed the connection") as caught:
            await attempt
        assert caught.value.status is Code.UNAVAILABLE


async def test_an_answer_to_nobody_is_dropped() -> None:
    ours, theirs = socket.socketpair()
    client = await connect_socket(ours, "the agent")
    theirs.sendall(Frame(99, Kind.RESPONSE, 0, b"").encode())
    waiting = asyncio.create_task(call(client, "Echo"))
    await asyncio.get_running_loop().sock_recv(_unblock(theirs), 1)
    theirs.sendall(Frame(1, Kind.RESPONSE, 0, b"").encode())

    assert await waiting == KeyValue()
    client.close()
    theirs.close()


async def test_a_server_that_breaks_the_protocol_is_named_and_hung_up_on() -> None:
    ours, theirs = socket.socketpair()
    client = await connect_socket(ours, "the agent")
    waiting = asyncio.create_task(call(client, "Echo"))
    theirs.sendall(b"\xff" * 10)

    with pytest.raises(ProtocolError, match="over the limit"):
        await waiting
    assert client.lost.is_set()
    theirs.close()


async def test_a_client_that_breaks_the_protocol_is_hung_up_on() -> None:
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, server = await loop.create_connection(lambda: ServerConnection(Handlers().services), sock=theirs)
    ours.sendall(b"\xff" * 10)

    async with asyncio.timeout(5):
        await server.closed.wait()
    ours.close()


async def test_nobody_at_the_address_is_unavailable() -> None:
    with pytest.raises(GuestError, match="the agent cannot be reached at /nonexistent/socket") as caught:
        await connect_unix("/nonexistent/socket", "the agent", timeout=1)

    assert caught.value.status is Code.UNAVAILABLE


def _unblock(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock
