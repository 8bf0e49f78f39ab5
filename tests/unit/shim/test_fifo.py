"""Stdio by FIFOs, as engines use them."""

import asyncio
import os
from pathlib import Path

import pytest

from kata.errors import HostError, UnsupportedError
from kata.shim.fifo import FifoAttachment, FifoTable, Streams


def _make_fifo(path: Path) -> str:
    os.mkfifo(path)
    return str(path)


async def test_input_ends_only_when_it_is_closed_though_a_client_left(tmp_path: Path) -> None:
    path = _make_fifo(tmp_path / "in")
    attachment = FifoAttachment(Streams(path, "", "", terminal=False))
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
    attachment = FifoAttachment(Streams(path, "", "", terminal=False))

    with pytest.raises(OSError, match="No such device"):
        os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    attachment.open_stdin()
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    attachment.finish(0)


async def test_output_waits_for_a_reader_that_comes_later_and_then_ends(tmp_path: Path) -> None:
    path = _make_fifo(tmp_path / "out")
    attachment = FifoAttachment(Streams("", path, "", terminal=False))
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
    attachment = FifoAttachment(Streams("", f"file://{tmp_path}/log", "", terminal=False))
    assert attachment.stdio.stdout is not None
    await attachment.stdio.stdout.write(b"line\n")
    attachment.finish(0)

    assert (tmp_path / "log").read_text() == "line\n"


async def test_a_stream_that_cannot_be_opened_is_named_and_nothing_stays_open(tmp_path: Path) -> None:
    out = _make_fifo(tmp_path / "out")
    before = set(os.listdir("/proc/self/fd"))

    with pytest.raises(HostError, match="missing"):
        FifoAttachment(Streams("", out, str(tmp_path / "missing" / "err"), terminal=False))
    with pytest.raises(UnsupportedError, match="unknown:"):
        FifoAttachment(Streams("", out, "unknown:///bin/logger", terminal=False))
    assert set(os.listdir("/proc/self/fd")) == before


_LOGGER = """#!/usr/bin/python3 -IS
import os, sys
if "fail" in sys.argv:
    sys.exit(1)
os.write(5, b"1")
os.close(5)
with open(sys.argv[sys.argv.index("to") + 1], "wb") as file:
    for descriptor in (3, 4):
        while data := os.read(descriptor, 100):
            file.write(data)
    file.write(f"{os.environ['CONTAINER_ID']} {os.environ['CONTAINER_NAMESPACE']} {len(os.environ)}".encode())
"""


def _write_logger(path: Path) -> Path:
    path.write_text(_LOGGER)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("scheme", ["binary", "binary-v2"])
async def test_a_program_takes_the_output_and_ends_with_it(tmp_path: Path, scheme: str) -> None:
    logger = _write_logger(tmp_path / "logger")
    uri = f"{scheme}://{logger}?to={tmp_path}/log"
    before = set(os.listdir("/proc/self/fd"))
    attachment = await FifoTable("space").open("the-process", Streams("", uri, uri, terminal=False))
    assert attachment.stdio.stdout is not None
    assert attachment.stdio.stderr is not None
    await attachment.stdio.stdout.write(b"out ")
    await attachment.stdio.stderr.write(b"err ")
    async with asyncio.timeout(10):
        await attachment.close()

    assert (tmp_path / "log").read_text().startswith("out err the-process space ")
    assert set(os.listdir("/proc/self/fd")) == before


async def test_a_logger_that_never_gets_ready_is_an_error_that_names_it_and_leaves_nothing(tmp_path: Path) -> None:
    logger = _write_logger(tmp_path / "logger")
    before = set(os.listdir("/proc/self/fd"))

    with pytest.raises(HostError, match=f"{logger}, a logger, ended before it was ready"):
        await FifoTable("space").open("p", Streams("", f"binary-v2://{logger}?fail", "", terminal=False))
    with pytest.raises(HostError, match=r"missing, a logger, did not start: No such file"):
        await FifoTable("space").open("p", Streams("", f"binary://{tmp_path}/missing", "", terminal=False))
    assert set(os.listdir("/proc/self/fd")) == before
