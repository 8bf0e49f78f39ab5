"""The way into a guest's debug console, with a real server in the VMM's place."""

import asyncio
from pathlib import Path

import pytest

from kata.hypervisor.channel import DEBUG_CONSOLE_PORT
from kata.sandbox.consoleline import serve_console
from kata.sandbox.line import find_port_socket, open_line

pytestmark = pytest.mark.asyncio


async def test_each_who_connects_has_a_shell_of_his_own_until_either_leaves(tmp_path: Path) -> None:
    ended = asyncio.Semaphore(0)

    async def be_guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == f"CONNECT {DEBUG_CONSOLE_PORT}\n".encode()
        writer.write(b"OK 1\n$ ")
        while (line := await reader.readline()) not in (b"", b"exit\n"):
            writer.write(b"said " + line)
        ended.release()
        writer.close()

    hybrid = tmp_path / "vsock.sock"
    vmm = await asyncio.start_unix_server(be_guest, path=str(hybrid))
    line = open_line("hybrid-vsock", str(tmp_path), str(hybrid))
    server = await serve_console(line)
    async with vmm, server:
        place = find_port_socket(str(tmp_path), DEBUG_CONSOLE_PORT)
        first, second = [await asyncio.open_unix_connection(place) for _ in range(2)]
        for (reader, writer), word in ((first, b"one\n"), (second, b"two\n")):
            writer.write(word)
            assert await reader.readuntil(word) == b"$ said " + word
        first[1].write(b"exit\n")
        assert await first[0].read() == b""
        second[1].close()
        async with asyncio.timeout(5):
            for _ in range(2):
                await ended.acquire()
        first[1].close()


async def test_a_guest_without_a_console_hangs_up(tmp_path: Path) -> None:
    line = open_line("hybrid-vsock", str(tmp_path), str(tmp_path / "nobody.sock"))
    async with await serve_console(line):
        reader, writer = await asyncio.open_unix_connection(find_port_socket(str(tmp_path), DEBUG_CONSOLE_PORT))
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
