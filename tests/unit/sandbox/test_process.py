import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kata.protocol.messages import agent as wire
from kata.sandbox.attach import Attachment
from kata.sandbox.guest import LOST_STATUS
from kata.sandbox.process import GuestProcess
from kata.sandbox.stdio import Stdio
from peer import Peer, open_guest

_BIG = os.urandom(1 << 19)


class _Engine:
    """The engine's ends of a process's streams and its stand-in."""

    def __init__(self) -> None:
        stdin, self.stdin = os.pipe()
        self.stdout, stdout = os.pipe()
        self.stderr, stderr = os.pipe()
        self.stand_in, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.stand_in.settimeout(5)
        self.attachment = Attachment(ours, Stdio(stdin, stdout, stderr), os.getpid(), terminal=False)

    def close(self) -> None:
        self.stand_in.close()
        for descriptor in (self.stdin, self.stdout, self.stderr):
            if descriptor >= 0:
                os.close(descriptor)

    def close_stdin(self) -> None:
        os.close(self.stdin)
        self.stdin = -1


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    peer = Peer()
    server = await peer.serve(str(tmp_path / "agent.sock"))
    yield peer
    server.close()


@pytest.fixture
async def engine() -> AsyncIterator[_Engine]:
    engine = _Engine()
    yield engine
    engine.attachment.finish(None)
    engine.close()


@pytest.fixture
async def process(tmp_path: Path, peer: Peer, engine: _Engine) -> AsyncIterator[GuestProcess]:
    guest = await open_guest(str(tmp_path / "agent.sock"))
    process = GuestProcess(guest, "c", "c", engine.attachment)
    process.follow()
    yield process
    process.end(0)
    guest.client.close()
    await guest.client.lost.wait()


def _read_all(descriptor: int) -> bytes:
    data = bytearray()
    while piece := os.read(descriptor, 1 << 16):
        data += piece
    return bytes(data)


async def test_output_is_delivered_whole_before_the_exit_code(
    peer: Peer, engine: _Engine, process: GuestProcess
) -> None:
    peer.exit.set_result(7)
    for piece in (_BIG, b"end", b""):
        peer.output["Stdout"].put_nowait(piece)
    for piece in (b"oops", b""):
        peer.output["Stderr"].put_nowait(piece)
    reading = asyncio.create_task(asyncio.to_thread(_read_all, engine.stdout))
    told = await asyncio.to_thread(engine.stand_in.recv, 100)
    assert json.loads(told) == {"exit": 7}
    assert await reading == _BIG + b"end"
    assert _read_all(engine.stderr) == b"oops"
    assert await process.exited == 7
    assert process.exited_at > 0


async def test_the_exit_code_waits_for_a_slow_reader(peer: Peer, engine: _Engine, process: GuestProcess) -> None:
    peer.output["Stdout"].put_nowait(_BIG)
    assert await asyncio.to_thread(os.read, engine.stdout, 1) == _BIG[:1]
    peer.output["Stdout"].put_nowait(b"")
    peer.output["Stderr"].put_nowait(b"")
    peer.exit.set_result(0)
    reading = asyncio.create_task(asyncio.to_thread(_read_all, engine.stdout))
    await process.exited
    assert await reading == _BIG[1:]


async def test_a_stream_that_a_child_left_behind_holds_open_is_given_up(
    peer: Peer, engine: _Engine, process: GuestProcess
) -> None:
    peer.output["Stdout"].put_nowait(b"said")
    peer.output["Stderr"].put_nowait(b"")
    peer.exit.set_result(0)
    async with asyncio.timeout(5):
        assert await process.exited == 0
    assert _read_all(engine.stdout) == b"said"


async def test_input_reaches_the_process_in_order_and_then_its_end(
    peer: Peer, engine: _Engine, process: GuestProcess
) -> None:
    def write() -> None:
        with open(os.dup(engine.stdin), "wb") as file:
            file.write(_BIG)
        engine.close_stdin()

    await asyncio.to_thread(write)
    async with asyncio.timeout(5):
        await peer.stdin_closed.wait()
    assert bytes(peer.stdin) == _BIG


async def test_a_stand_in_that_is_killed_takes_its_process_with_it(
    peer: Peer, engine: _Engine, process: GuestProcess
) -> None:
    for queue in peer.output.values():
        queue.put_nowait(b"")
    engine.stand_in.close()
    async with asyncio.timeout(5):
        assert await process.exited == 128 + signal.SIGKILL
    [(name, request)] = peer.calls
    assert name == "SignalProcess"
    assert isinstance(request, wire.SignalProcessRequest)
    assert (request.container_id, request.exec_id, request.signal) == ("c", "c", signal.SIGKILL)


async def test_a_guest_that_goes_away_ends_the_process_with_the_code_for_lost(
    peer: Peer, engine: _Engine, process: GuestProcess
) -> None:
    peer.output["Stdout"].put_nowait(b"x")
    assert await asyncio.to_thread(os.read, engine.stdout, 1) == b"x"
    for connection in peer.connections:
        await connection.finish() if not connection._tasks else connection._transport.abort()  # type: ignore[union-attr]  # connected
    async with asyncio.timeout(5):
        assert await process.exited == LOST_STATUS
    assert json.loads(engine.stand_in.recv(100)) == {"exit": LOST_STATUS}


@pytest.mark.parametrize("status", [-1, 256, 1 << 20])
async def test_an_exit_code_that_would_look_like_another_is_not_believed(
    peer: Peer, engine: _Engine, process: GuestProcess, status: int
) -> None:
    for queue in peer.output.values():
        queue.put_nowait(b"")
    peer.exit.set_result(status)
    async with asyncio.timeout(5):
        assert await process.exited == LOST_STATUS


async def test_a_process_ends_once(peer: Peer, engine: _Engine, process: GuestProcess) -> None:
    process.end(3)
    process.end(4)
    assert await process.exited == 3
    assert json.loads(engine.stand_in.recv(100)) == {"exit": 3}
    assert engine.stand_in.recv(100) == b""
