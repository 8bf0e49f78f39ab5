"""Asking a VMM's socket for a port of the guest's, with a server in the VMM's place."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kata.transport.hybridvsock import connect_hybrid


@asynccontextmanager
async def vmm(path: Path, answer: bytes) -> AsyncIterator[list[bytes]]:
    """A server that notes what it is asked, and answers this."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield asked
    finally:
        server.close()


async def test_the_guests_bytes_begin_after_the_answers_line(tmp_path: Path) -> None:
    async with vmm(tmp_path / "vsock.sock", b"OK 1073741824\nhello") as asked:
        with await connect_hybrid(str(tmp_path / "vsock.sock"), 1024) as connection:
            assert await asyncio.get_running_loop().sock_recv(connection, 100) == b"hello"
    assert asked == [b"CONNECT 1024\n"]


@pytest.mark.parametrize("answer", [b"", b"NO\n", b"O" * 1000])
async def test_a_port_where_nobody_listens_is_refused(tmp_path: Path, answer: bytes) -> None:
    async with vmm(tmp_path / "vsock.sock", answer):
        with pytest.raises(ConnectionRefusedError):
            await connect_hybrid(str(tmp_path / "vsock.sock"), 1024)


async def test_a_link_that_was_put_in_the_sockets_place_is_not_followed(tmp_path: Path) -> None:
    async with vmm(tmp_path / "real.sock", b"OK 1\n") as asked:
        (tmp_path / "vsock.sock").symlink_to("real.sock")
        with pytest.raises(OSError, match="is no socket"):
            await connect_hybrid(str(tmp_path / "vsock.sock"), 1024)
    assert asked == []


async def test_a_vmm_that_does_not_listen_yet_is_an_error_to_try_again_after(tmp_path: Path) -> None:
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        await connect_hybrid(str(tmp_path / "vsock.sock"), 1024)
    assert os.listdir("/proc/self/fd") == descriptors
