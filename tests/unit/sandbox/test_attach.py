import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kata.errors import Code, DeadlineError, ExistsError, GuestError
from kata.sandbox.attach import AttachServer
from kata.transport.readiness import wait_readable


class _Process:
    """A process in a guest that is a list of what was done to it."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.refuses = False

    async def resize(self, rows: int, columns: int) -> None:
        await self.heard.put(("resize", rows, columns))

    async def signal(self, number: int) -> None:
        await self.heard.put(("signal", number))
        if self.refuses:
            raise GuestError("no such process", status=Code.NOT_FOUND)

    async def abandon(self) -> None:
        await self.heard.put(("abandon",))


class _Place:
    """An attach server on a real socket."""

    def __init__(self, path: str) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(path)
        listener.listen(16)
        self.path = path
        self.server = AttachServer(listener)
        self.running = asyncio.create_task(self.server.run())

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(5)
        connection.connect(self.path)
        return connection

    def hand_over(self, hello: object, count: int = 3) -> tuple[socket.socket, list[int]]:
        """Connect and send a hello with the write ends of pipes; return the connection and the read ends."""
        connection = self.connect()
        pipes = [os.pipe() for _ in range(count)]
        data = hello if isinstance(hello, bytes) else json.dumps(hello).encode()
        socket.send_fds(connection, [data], [writing for _, writing in pipes])
        for _, writing in pipes:
            os.close(writing)
        return connection, [reading for reading, _ in pipes]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[_Place]:
    before = sorted(os.listdir("/proc/self/fd"))
    place = _Place(str(tmp_path / "init.sock"))
    before = sorted(os.listdir("/proc/self/fd"))
    yield place
    place.running.cancel()
    with suppress(asyncio.CancelledError):
        await place.running
    # The listener is closed, and everything that a test left behind too.
    assert len(os.listdir("/proc/self/fd")) < len(before)


async def _receive(connection: socket.socket) -> bytes:
    return await asyncio.to_thread(connection.recv, 4096)


async def _wait_end(*pipes: int) -> None:
    """Wait until nobody holds the other ends; close ours."""
    for reading in pipes:
        os.set_blocking(reading, False)
        async with asyncio.timeout(5):
            await wait_readable(reading)
        assert os.read(reading, 1) == b""
        os.close(reading)


_HELLO = {"container": "c", "exec": "", "terminal": False, "pid": 7}


async def test_a_stand_in_that_came_before_its_call_is_handed_over_with_its_streams(place: _Place) -> None:
    connection, pipes = place.hand_over(_HELLO)
    attachment = await place.server.take("c", "", timeout=10)
    assert attachment.pid == 7
    assert attachment.stdio.stdout is not None
    assert await attachment.stdio.stdout.write(b"hello")
    assert os.read(pipes[1], 10) == b"hello"
    attachment.finish(3)
    assert json.loads(await _receive(connection)) == {"exit": 3}
    assert await _receive(connection) == b""
    await _wait_end(*pipes)
    connection.close()


async def test_a_call_waits_for_its_stand_in(place: _Place) -> None:
    taking = asyncio.create_task(place.server.take("c", "e1", timeout=10))
    await asyncio.sleep(0)
    connection, pipes = place.hand_over(_HELLO | {"exec": "e1"})
    (await taking).finish(None)
    assert await _receive(connection) == b""
    await _wait_end(*pipes)
    connection.close()


async def test_the_streams_are_closed_before_the_exit_code_is_told(place: _Place) -> None:
    connection, pipes = place.hand_over(_HELLO)
    attachment = await place.server.take("c", "", timeout=10)
    attachment.finish(0)
    assert json.loads(connection.recv(100)) == {"exit": 0}
    for reading in pipes:
        os.set_blocking(reading, False)
        assert os.read(reading, 1) == b""
        os.close(reading)
    connection.close()


async def test_no_stand_in_in_time_is_a_deadline_error_that_names_the_process(place: _Place) -> None:
    with pytest.raises(DeadlineError, match="exec e of container c"):
        await place.server.take("c", "e", timeout=0.01)


async def test_two_calls_for_one_stand_in_do_not_share_it(place: _Place) -> None:
    first = asyncio.create_task(place.server.take("c", "", timeout=10))
    await asyncio.sleep(0)
    with pytest.raises(ExistsError):
        await place.server.take("c", "", timeout=10)
    connection, pipes = place.hand_over(_HELLO)
    (await first).finish(None)
    await _wait_end(*pipes)
    connection.close()


@pytest.mark.parametrize(
    ("hello", "count"),
    [
        (b"not json", 3),
        (b"\xff\xfe", 3),
        ([1, 2], 3),
        ({}, 3),
        ({"container": ""}, 3),
        ({"container": 5}, 3),
        (_HELLO | {"exec": 1}, 3),
        (_HELLO | {"pid": "x"}, 3),
        (_HELLO, 2),
        (_HELLO, 1),
        (_HELLO | {"terminal": True}, 3),
        (b"[" * 4000, 3),
    ],
)
async def test_a_bad_hello_is_hung_up_on_and_its_descriptors_are_closed(
    place: _Place, hello: object, count: int
) -> None:
    connection, pipes = place.hand_over(hello, count)
    assert await _receive(connection) == b""
    connection.close()
    await _wait_end(*pipes)
    good, pipes = place.hand_over(_HELLO)
    (await place.server.take("c", "", timeout=10)).finish(None)
    await _wait_end(*pipes)
    good.close()


async def test_a_hello_without_any_descriptor_is_hung_up_on(place: _Place) -> None:
    connection = place.connect()
    connection.send(json.dumps(_HELLO).encode())
    assert await _receive(connection) == b""
    connection.close()


async def test_one_that_connects_and_leaves_without_a_word_is_forgotten(place: _Place) -> None:
    place.connect().close()
    connection, pipes = place.hand_over(_HELLO)
    (await place.server.take("c", "", timeout=10)).finish(None)
    await _wait_end(*pipes)
    connection.close()


async def test_a_stand_in_that_hangs_up_before_its_call_comes_is_let_go_of(place: _Place) -> None:
    connection, pipes = place.hand_over(_HELLO | {"container": "nobody"})
    connection.close()
    await _wait_end(*pipes)
    with pytest.raises(DeadlineError):
        await place.server.take("nobody", "", timeout=0.01)


async def test_a_second_stand_in_for_the_same_process_is_hung_up_on(place: _Place) -> None:
    first, first_pipes = place.hand_over(_HELLO)
    second, second_pipes = place.hand_over(_HELLO)
    assert await _receive(second) == b""
    await _wait_end(*second_pipes)
    (await place.server.take("c", "", timeout=10)).finish(None)
    await _wait_end(*first_pipes)
    first.close()
    second.close()


async def test_stand_ins_that_nobody_took_are_let_go_of_when_the_daemon_ends(place: _Place) -> None:
    connection, pipes = place.hand_over(_HELLO)
    waiting, more = place.hand_over(_HELLO | {"container": "d"})
    (await place.server.take("d", "", timeout=10)).finish(None)
    place.running.cancel()
    with suppress(asyncio.CancelledError):
        await place.running
    assert await _receive(connection) == b""
    await _wait_end(*pipes, *more)
    connection.close()
    waiting.close()


async def test_what_the_stand_in_says_reaches_the_process_in_order(place: _Place) -> None:
    connection, pipes = place.hand_over(_HELLO)
    connection.send(b'{"resize": [24, 80]}')  # may come before the process exists
    attachment = await place.server.take("c", "", timeout=10)
    process = _Process()
    attachment.follow(process)
    connection.send(b'{"signal": 15}')
    assert await process.heard.get() == ("resize", 24, 80)
    assert await process.heard.get() == ("signal", 15)
    attachment.finish(None)
    await _wait_end(*pipes)
    connection.close()


@pytest.mark.parametrize("word", [b"not json", b"[]", b'{"resize": 5}', b'{"resize": [1]}', b'{"signal": "x"}', b"{}"])
async def test_a_word_that_makes_no_sense_does_not_keep_the_next_from_coming_through(
    place: _Place, word: bytes
) -> None:
    connection, pipes = place.hand_over(_HELLO)
    attachment = await place.server.take("c", "", timeout=10)
    process = _Process()
    attachment.follow(process)
    connection.send(word)
    connection.send(b'{"signal": 2}')
    assert await process.heard.get() == ("signal", 2)
    attachment.finish(None)
    await _wait_end(*pipes)
    connection.close()


async def test_a_signal_that_the_guest_refuses_does_not_hide_that_the_stand_in_is_killed(place: _Place) -> None:
    connection, pipes = place.hand_over(_HELLO)
    attachment = await place.server.take("c", "", timeout=10)
    process = _Process()
    process.refuses = True
    attachment.follow(process)
    connection.send(b'{"signal": 2}')
    connection.close()
    assert await process.heard.get() == ("signal", 2)
    assert await process.heard.get() == ("abandon",)
    attachment.finish(None)
    await _wait_end(*pipes)


async def test_finishing_twice_tells_once_and_closes_nothing_of_others(place: _Place) -> None:
    connection, pipes = place.hand_over(_HELLO)
    attachment = await place.server.take("c", "", timeout=10)
    attachment.finish(None)
    stranger = os.pipe()
    attachment.finish(1)
    os.write(stranger[1], b"x")
    assert await _receive(connection) == b""
    for descriptor in stranger:
        os.close(descriptor)
    await _wait_end(*pipes)
    connection.close()


async def test_a_finished_attachment_does_not_abandon_its_process(place: _Place) -> None:
    connection, pipes = place.hand_over(_HELLO)
    attachment = await place.server.take("c", "", timeout=10)
    process = _Process()
    attachment.follow(process)
    connection.send(b'{"signal": 1}')
    await process.heard.get()
    attachment.finish(0)
    connection.close()
    await _wait_end(*pipes)
    assert process.heard.empty()
