"""Streams on real pipes and terminals: order, back-pressure, the end."""

import asyncio
import fcntl
import os
import pty
import struct
import termios

import pytest

from kata.agent.stdio import Input, Output, Pipes, Terminal
from kata.errors import StateError

ENOUGH = 10.0  # seconds


def make_output() -> tuple[Output, int]:
    ours, theirs = os.pipe()
    return Output(ours, "it"), theirs


def make_input() -> tuple[Input, int]:
    theirs, ours = os.pipe()
    return Input(ours, "it"), theirs


def read_to_end(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()


async def test_output_is_read_in_the_sizes_that_were_asked_for() -> None:
    output, theirs = make_output()
    os.write(theirs, b"abcdef")
    os.close(theirs)

    assert [await output.read(size) for size in (2, 3, 9, 9)] == [b"ab", b"cde", b"f", b""]


async def test_a_read_waits_for_output() -> None:
    output, theirs = make_output()
    reading = asyncio.create_task(output.read(10))
    await asyncio.sleep(0)
    os.write(theirs, b"late")

    assert await asyncio.wait_for(reading, ENOUGH) == b"late"
    output.close()
    os.close(theirs)


async def test_concurrent_reads_are_served_in_turn() -> None:
    output, theirs = make_output()
    reads = [asyncio.create_task(output.read(1)) for _ in range(3)]
    await asyncio.sleep(0)
    os.write(theirs, b"xyz")

    assert await asyncio.wait_for(asyncio.gather(*reads), ENOUGH) == [b"x", b"y", b"z"]
    output.close()
    os.close(theirs)


async def test_a_cancelled_read_takes_nothing() -> None:
    output, theirs = make_output()
    reading = asyncio.create_task(output.read(10))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    os.write(theirs, b"kept")

    assert await output.read(10) == b"kept"
    output.close()
    os.close(theirs)


async def test_output_ends_after_the_process_although_an_heir_holds_the_pipe() -> None:
    output, theirs = make_output()
    os.write(theirs, b"last words")
    reading = asyncio.create_task(output.read(4))
    output.mark_exited()

    assert await reading == b"last"
    assert await output.read(100) == b" words"
    assert await asyncio.wait_for(output.read(100), ENOUGH) == b""
    os.close(theirs)


async def test_closing_wakes_a_reader_with_the_end() -> None:
    output, theirs = make_output()
    reading = asyncio.create_task(output.read(10))
    await asyncio.sleep(0)
    output.close()

    assert await asyncio.wait_for(reading, ENOUGH) == b""
    os.close(theirs)


async def test_writes_that_do_not_fit_wait_and_keep_their_order() -> None:
    stdin, theirs = make_input()
    parts = [bytes([number]) * 50_000 for number in range(8)]
    writes = [asyncio.create_task(stdin.write(part)) for part in parts]
    await asyncio.sleep(0)
    assert not any(write.done() for write in writes[2:])
    stdin.close()
    received = await asyncio.to_thread(read_to_end, theirs)
    await asyncio.gather(*writes)

    assert received == b"".join(parts)


async def test_nothing_is_accepted_after_the_end() -> None:
    stdin, theirs = make_input()
    stdin.close()

    with pytest.raises(StateError, match="stdin of it is closed"):
        await stdin.write(b"x")
    os.close(theirs)


async def test_a_process_that_closed_its_stdin_is_reported_to_who_waits() -> None:
    stdin, theirs = make_input()
    writing = asyncio.create_task(stdin.write(b"x" * 200_000))
    await asyncio.sleep(0)
    os.close(theirs)

    with pytest.raises(StateError, match="by the process"):
        await asyncio.wait_for(writing, ENOUGH)
    stdin.release()


async def test_release_frees_a_blocked_writer() -> None:
    stdin, theirs = make_input()
    writing = asyncio.create_task(stdin.write(b"x" * 200_000))
    await asyncio.sleep(0)
    stdin.release()

    with pytest.raises(StateError):
        await asyncio.wait_for(writing, ENOUGH)
    os.close(theirs)


async def test_pipes_have_the_capacity_asked_for_and_leave_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    pipes = Pipes("it", 1 << 18)

    assert fcntl.fcntl(pipes.theirs[1], fcntl.F_GETPIPE_SZ) == 1 << 18
    pipes.close()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_terminal_ends_when_its_last_user_is_gone() -> None:
    master, slave = pty.openpty()
    terminal = Terminal(master, "it")
    terminal.resize(3, 4)

    assert struct.unpack("HHHH", fcntl.ioctl(slave, termios.TIOCGWINSZ, bytes(8)))[:2] == (3, 4)
    os.write(slave, b"bye\n")
    assert await terminal.stdout.read(10) == b"bye\r\n"
    os.close(slave)
    assert await terminal.stdout.read(10) == b""
    terminal.close()


async def test_a_write_that_is_interrupted_says_how_much_was_taken() -> None:
    stdin, theirs = make_input()
    capacity = fcntl.fcntl(theirs, fcntl.F_GETPIPE_SZ)
    data = bytes(range(256)) * (capacity // 128)
    writing = asyncio.create_task(stdin.write(data))
    waiting = asyncio.create_task(stdin.write(b"next"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stdin.interrupt()
    async with asyncio.timeout(ENOUGH):
        written = await writing
        assert await waiting == 0
    assert 0 < written < len(data)
    assert os.read(theirs, len(data)) == data[:written]
    assert await stdin.write(b"rest") == 4
    stdin.close()
    assert read_to_end(theirs) == b"rest"
