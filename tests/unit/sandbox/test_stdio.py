import asyncio
import fcntl
import os
import pty
import socket
import threading
import tty
from pathlib import Path

import pytest

from kata.errors import Code, GuestError
from kata.sandbox.stdio import CHUNK, Endpoint, Pump, Stdio

_BIG = os.urandom(CHUNK) * 3 + b"end"


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _read_all(descriptor: int) -> bytes:
    data = bytearray()
    while piece := os.read(descriptor, 10_000):
        data += piece
    return bytes(data)


async def _write_all(endpoint: Endpoint, data: bytes) -> None:
    assert await endpoint.write(data)
    endpoint.close()


async def _read_endpoint(endpoint: Endpoint) -> bytes:
    data = bytearray()
    while piece := await endpoint.read():
        data += piece
    return bytes(data)


async def test_a_slow_reader_of_a_pipe_gets_every_byte_in_order() -> None:
    reading, writing = os.pipe()
    reader = asyncio.create_task(asyncio.to_thread(_read_all, reading))
    await _write_all(Endpoint(writing, writing=True), _BIG)
    assert await reader == _BIG
    os.close(reading)


async def test_a_slow_reader_of_a_socket_gets_every_byte_in_order() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        reader = asyncio.create_task(asyncio.to_thread(_read_all, theirs.fileno()))
        await _write_all(Endpoint(ours.detach(), writing=True), _BIG)
        assert await reader == _BIG


async def test_everything_a_slow_writer_puts_in_a_pipe_is_read_in_order() -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as file:
            file.write(_BIG)

    thread = threading.Thread(target=write)
    thread.start()
    endpoint = Endpoint(reading, writing=False)
    assert await _read_endpoint(endpoint) == _BIG
    endpoint.close()
    thread.join()


async def test_a_pipe_keeps_blocking_for_the_engine_that_shares_it() -> None:
    reading, writing = os.pipe()
    shared = os.dup(writing)
    endpoint = Endpoint(writing, writing=True)
    assert os.get_blocking(shared)
    task = asyncio.create_task(endpoint.write(_BIG))
    assert await asyncio.to_thread(os.read, reading, 10) == _BIG[:10]
    assert os.get_blocking(shared)
    endpoint.close()
    await asyncio.wait({task})
    os.close(shared)
    os.close(reading)


async def test_a_socket_keeps_blocking_for_the_engine_that_shares_it() -> None:
    ours, theirs = socket.socketpair()
    shared = ours.dup()
    with theirs, shared:
        endpoint = Endpoint(ours.detach(), writing=False)
        task = asyncio.create_task(endpoint.read())
        theirs.send(b"x")
        assert await task == b"x"
        assert os.get_blocking(shared.fileno())
        endpoint.close()


async def test_a_terminal_carries_both_directions_and_keeps_blocking() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    shared = os.dup(slave)
    stdio = Stdio.open_terminal(slave)
    assert stdio.stdin is not None
    assert stdio.stdout is not None
    assert stdio.stderr is None
    task = asyncio.create_task(stdio.stdin.read())
    os.write(master, b"typed")
    assert await task == b"typed"
    assert await stdio.stdout.write(b"shown")
    assert os.read(master, 100) == b"shown"
    assert os.get_blocking(shared)
    stdio.close()
    os.close(shared)
    os.close(master)


async def test_a_terminal_whose_other_end_is_closed_is_at_its_end() -> None:
    master, slave = pty.openpty()
    stdio = Stdio.open_terminal(slave)
    assert stdio.stdin is not None
    assert stdio.stdout is not None
    os.close(master)
    assert await stdio.stdin.read() == b""
    assert not await stdio.stdout.write(b"x")
    stdio.close()


async def test_a_file_is_read_from_and_written_at_the_engines_offset(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    descriptor = os.open(path, os.O_RDWR)
    os.lseek(descriptor, 4, os.SEEK_SET)
    reading = Endpoint(os.dup(descriptor), writing=False)
    assert await _read_endpoint(reading) == b"456789"
    reading.close()
    writing = Endpoint(descriptor, writing=True)
    assert await writing.write(b"more")
    writing.close()
    assert path.read_bytes() == b"0123456789more"


async def test_dev_null_is_empty_and_takes_everything() -> None:
    reading, writing = (Endpoint(os.open("/dev/null", os.O_RDWR), writing=way) for way in (False, True))
    assert await reading.read() == b""
    assert await writing.write(_BIG)
    reading.close()
    writing.close()


async def test_a_full_disk_ends_the_output() -> None:
    endpoint = Endpoint(os.open("/dev/full", os.O_WRONLY), writing=True)
    assert not await endpoint.write(b"x")
    endpoint.close()


async def test_a_pipe_that_nobody_reads_any_more_can_be_taken_over_and_takes_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    endpoint = Endpoint(writing, writing=True)
    assert not await endpoint.write(b"x")
    endpoint.close()
    assert not _is_open(writing)


async def test_a_pipe_that_cannot_be_opened_anew_gets_every_byte_without_blocking_the_loop() -> None:
    reading, writing = os.pipe()
    endpoint = Endpoint(writing, writing=True)
    endpoint._asks_first = True
    os.set_blocking(endpoint._descriptor, True)
    reader = asyncio.create_task(asyncio.to_thread(_read_all, reading))
    await _write_all(endpoint, _BIG)
    assert await reader == _BIG
    os.close(reading)


async def test_a_reader_that_goes_away_ends_a_write_that_waits_for_it() -> None:
    reading, writing = os.pipe()
    endpoint = Endpoint(writing, writing=True)
    task = asyncio.create_task(endpoint.write(_BIG))
    assert await asyncio.to_thread(os.read, reading, 1)
    os.close(reading)
    assert not await task
    endpoint.close()


async def test_closing_ends_a_read_that_waits() -> None:
    reading, writing = os.pipe()
    endpoint = Endpoint(reading, writing=False)
    task = asyncio.create_task(endpoint.read())
    await asyncio.sleep(0)
    endpoint.close()
    await asyncio.wait({task})
    assert task.cancelled()
    os.close(writing)


async def test_a_descriptor_that_takes_the_number_of_a_closed_one_is_watched_as_its_own() -> None:
    reading, writing = os.pipe()
    first = Endpoint(reading, writing=False)
    number = first._descriptor
    other_reading, other_writing = os.pipe()
    waiting = asyncio.create_task(first.read())
    await asyncio.sleep(0)
    waiting.cancel()
    first.close()
    os.dup2(other_reading, number)
    os.close(other_reading)
    seen = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(number, seen.set)
    await asyncio.wait({waiting})
    os.write(other_writing, b"x")
    async with asyncio.timeout(5):
        await seen.wait()
    loop.remove_reader(number)
    for descriptor in (number, other_writing, writing):
        os.close(descriptor)


async def test_an_endpoint_can_be_closed_twice_without_closing_a_strangers_descriptor() -> None:
    reading, writing = os.pipe()
    endpoint = Endpoint(reading, writing=False)
    number = endpoint._descriptor
    endpoint.close()
    os.dup2(writing, number)
    endpoint.close()
    assert _is_open(number)
    os.close(number)
    os.close(writing)


async def test_a_pump_goes_on_draining_the_guest_when_nobody_reads() -> None:
    pieces = [b"a", b"b", b"c", b""]
    reading, writing = os.pipe()
    endpoint = Endpoint(writing, writing=True)
    os.close(reading)

    async def read(size: int) -> bytes:
        return pieces.pop(0)

    await Pump(read, endpoint).run()
    assert pieces == []
    endpoint.close()


async def test_a_pump_asks_the_guest_for_one_piece_ahead_and_no_more_while_the_reader_is_slow() -> None:
    asked = 0
    reading, writing = os.pipe()
    endpoint = Endpoint(writing, writing=True)
    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 1 << 16)  # as a host does that lets nobody have larger ones

    async def read(size: int) -> bytes:
        nonlocal asked
        asked += 1
        return _BIG[:size] if asked < 4 else b""

    pump = Pump(read, endpoint)
    task = asyncio.create_task(pump.run())
    assert await asyncio.to_thread(os.read, reading, 1000) == _BIG[:1000]
    assert asked <= 2
    assert pump.waiting_since is None
    reader = asyncio.create_task(asyncio.to_thread(_read_all, reading))
    await task
    endpoint.close()
    assert await reader == (_BIG[:CHUNK] * 3)[1000:]
    os.close(reading)


async def test_a_pump_ends_quietly_with_the_guest() -> None:
    reading, writing = os.pipe()
    endpoint = Endpoint(writing, writing=True)

    async def read(size: int) -> bytes:
        raise GuestError("the agent closed the connection", status=Code.UNAVAILABLE)

    await Pump(read, endpoint).run()
    endpoint.close()
    os.close(reading)


@pytest.mark.parametrize("kind", ["pipe", "file"])
async def test_stdio_owns_every_descriptor_it_was_given(kind: str, tmp_path: Path) -> None:
    given = []
    others = []
    for name in ("in", "out", "err"):
        if kind == "pipe":
            reading, writing = os.pipe()
            given.append(reading if name == "in" else writing)
            others.append(writing if name == "in" else reading)
        else:
            given.append(os.open(tmp_path / name, os.O_RDWR | os.O_CREAT))
    before = len(os.listdir("/proc/self/fd"))
    stdio = Stdio(*given)
    assert len(os.listdir("/proc/self/fd")) == before
    stdio.close()
    stdio.close()
    assert len(os.listdir("/proc/self/fd")) == before - 3
    for descriptor in others:
        os.close(descriptor)
