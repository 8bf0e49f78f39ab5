"""Stdio by FIFOs, as engines use them."""

import asyncio
import os
from pathlib import Path

import pytest

from kata.errors import HostError, UnsupportedError
from kata.shim.fifo import FifoAttachment


def _make_fifo(path: Path) -> str:
    os.mkfifo(path)
    return str(path)


async def test_input_ends_only_when_it_is_closed_though_a_client_left(tmp_path: Path) -> None:
    path = _make_fifo(tmp_path / "in")
    attachment = FifoAttachment(path, "", "", terminal=False)
    attachment.open_stdin()
    stdin = attachment.stdio.stdin
    assert stdin is not None
    client = os.open(path, os.O_WRONLY)
    os.write(client, b"one")
    os.close(client)

    assert await stdin.read() == b"one"
    waiting = asyncio.create_task(stdin.read())
    assert not (await asyncio.wait({waiting}, timeout=0.05))[0]
    attachment.close_stdin()
    async with asyncio.timeout(5):
        assert await waiting == b""
    attachment.finish(0)


async def test_a_client_is_not_let_in_before_the_process_starts(tmp_path: Path) -> None:
    path = _make_fifo(tmp_path / "in")
    attachment = FifoAttachment(path, "", "", terminal=False)

    with pytest.raises(OSError, match="No such device"):
        os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    attachment.open_stdin()
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    attachment.finish(0)


async def test_output_waits_for_a_reader_that_comes_later_and_then_ends(tmp_path: Path) -> None:
    path = _make_fifo(tmp_path / "out")
    attachment = FifoAttachment("", path, "", terminal=False)
    assert attachment.stdio.stdout is not None
    first = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.close(first)
    assert await attachment.stdio.stdout.write(b"kept")
    second = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    attachment.finish(0)
    attachment.finish(0)

    assert os.read(second, 100) == b"kept"
    assert os.read(second, 100) == b""
    os.close(second)


async def test_output_may_go_to_a_file(tmp_path: Path) -> None:
    attachment = FifoAttachment("", f"file://{tmp_path}/log", "", terminal=False)
    assert attachment.stdio.stdout is not None
    await attachment.stdio.stdout.write(b"line\n")
    attachment.finish(0)

    assert (tmp_path / "log").read_text() == "line\n"


async def test_a_stream_that_cannot_be_opened_is_named_and_nothing_stays_open(tmp_path: Path) -> None:
    out = _make_fifo(tmp_path / "out")
    before = set(os.listdir("/proc/self/fd"))

    with pytest.raises(HostError, match="missing"):
        FifoAttachment("", out, str(tmp_path / "missing" / "err"), terminal=False)
    with pytest.raises(UnsupportedError, match="binary:"):
        FifoAttachment("", out, "binary:///bin/logger", terminal=False)
    assert set(os.listdir("/proc/self/fd")) == before
