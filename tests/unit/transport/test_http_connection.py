"""HTTP over real sockets: one client after the other, and what becomes of those that do not behave."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kata.errors import Code, DeadlineError, GuestError, NotFoundError, ProtocolError, UnsupportedError
from kata.protocol.http import CONTINUE, Request, Response
from kata.transport.http import HttpConnection, describe_error, fetch

GET = b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n"


async def answer(request: Request) -> Response:
    match request.path:
        case "/missing":
            raise NotFoundError("there is no such thing", hint="look elsewhere")
        case "/broken":
            raise ZeroDivisionError
        case "/never":
            await asyncio.Event().wait()
        case "/large":
            return Response(200, b"x" * (8 << 20))
    return Response(200, request.path.encode() + request.body)


class Watched(HttpConnection):
    """Tells when it is gone."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gone = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.gone.set()


@asynccontextmanager
async def serving(
    path: Path,
    errors: list[str] | None = None,
    *,
    idle_timeout: float = 30,
    connections: list[Watched] | None = None,
) -> AsyncIterator[str]:
    seen = [] if connections is None else connections

    def note(request: Request, error: Exception) -> None:
        if errors is not None:
            errors.append(f"{request.path} {error!r}")

    def welcome() -> Watched:
        seen.append(Watched(answer, note, idle_timeout=idle_timeout))
        return seen[-1]

    place = str(path / "s")
    async with await asyncio.get_running_loop().create_unix_server(welcome, place):
        yield place
    for connection in seen:
        connection.close()
        await connection.gone.wait()


async def talk(path: str, data: bytes, *, end: bool = True) -> bytes:
    """Send all of `data`, then return all that comes until the server closes."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 25)
    writer.write(data)
    if end:
        writer.write_eof()
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_response_comes_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as path:
        response = await fetch(path, "/a", "the server", method="PUT", body=b"!", timeout=10)

    assert (response.status, response.body) == (200, b"/a!")


async def test_requests_of_one_connection_are_answered_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as path:
        data = await talk(path, GET % b"/one" + GET % b"/two" + b"GET /three HTTP/1.0\r\n\r\n", end=False)

    assert [word for word in (b"/one", b"/two", b"/three") if word in data] == [b"/one", b"/two", b"/three"]
    assert data.count(b"200 OK") == 3


async def test_head_is_answered_without_the_body(tmp_path: Path) -> None:
    async with serving(tmp_path) as path:
        data = await talk(path, b"HEAD /text HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", end=False)

    assert b"Content-Length: 5\r\n" in data
    assert data.endswith(b"\r\n\r\n")


async def test_errors_are_sentences_with_a_status_and_the_others_are_noted(tmp_path: Path) -> None:
    errors: list[str] = []
    async with serving(tmp_path, errors) as path:
        missing = await fetch(path, "/missing", "the server", timeout=10)
        broken = await fetch(path, "/broken", "the server", timeout=10)

    assert (missing.status, missing.body) == (404, b"there is no such thing (look elsewhere)\n")
    assert broken.status == 500
    assert errors == ["/broken ZeroDivisionError()"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnsupportedError("no"), 501),
        (GuestError("no", status=Code.UNIMPLEMENTED), 501),
        (GuestError("gone", status=Code.UNAVAILABLE), 503),
        (DeadlineError("late"), 504),
        (ProtocolError("rubbish"), 502),
    ],
)
def test_the_status_says_whose_fault_it_was(error: GuestError, status: int) -> None:
    assert describe_error(error).status == status


async def test_a_malformed_request_is_answered_and_ends_the_connection(tmp_path: Path) -> None:
    async with serving(tmp_path) as path:
        data = await talk(path, b"GET nowhere HTTP/1.1\r\nHost: h\r\n\r\n" + GET % b"/one", end=False)

    assert data.startswith(b"HTTP/1.1 400 ")
    assert b"200 OK" not in data


async def test_a_client_may_wait_for_leave_to_send_a_body(tmp_path: Path) -> None:
    head = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    async with serving(tmp_path) as path, asyncio.timeout(10):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(head)
        assert await reader.readexactly(len(CONTINUE)) == CONTINUE
        writer.write(b"xy")
        assert (await reader.read()).endswith(b"/xy")
        writer.close()


async def test_a_client_that_dawdles_is_told_so_and_dropped(tmp_path: Path) -> None:
    async with serving(tmp_path, idle_timeout=0.05) as path:
        data = await talk(path, b"GET / HTTP", end=False)

    assert data.startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_says_nothing_is_dropped(tmp_path: Path) -> None:
    async with serving(tmp_path, idle_timeout=0.05) as path:
        assert await talk(path, b"", end=False) == b""


async def test_a_client_that_does_not_take_its_response_is_dropped(tmp_path: Path) -> None:
    connections: list[Watched] = []
    async with serving(tmp_path, idle_timeout=0.05, connections=connections) as path:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.setblocking(False)
            client.sendall(GET % b"/large")
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().sock_recv(client, 1)
                await connections[0].gone.wait()


async def test_a_server_that_never_answers_is_waited_for_no_longer_than_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as path:
        with pytest.raises(DeadlineError, match=r"the server did not answer /never within 0\.05 s"):
            await fetch(path, "/never", "the server", timeout=0.05)


async def test_a_response_over_the_clients_limit_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as path:
        with pytest.raises(ProtocolError, match="over the limit"):
            await fetch(path, "/large", "the server", timeout=10, max_body=1 << 20)


async def test_a_socket_where_nobody_listens_is_named(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match=f"the server cannot be reached at {tmp_path}/s: No such file"):
        await fetch(f"{tmp_path}/s", "/", "the server", timeout=10)
