"""A guest that is held: nothing is on its way then, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kata.errors import StateError
from kata.sandbox.guest import Guest
from peer import Peer, open_guest

ENOUGH = 10.0  # seconds


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    peer = Peer()
    server = await peer.serve(str(tmp_path / "agent.sock"))
    yield peer
    server.close()


@pytest.fixture
async def guest(tmp_path: Path, peer: Peer) -> AsyncIterator[Guest]:
    guest = await open_guest(str(tmp_path / "agent.sock"))
    yield guest
    guest.client.close()


async def test_a_wait_goes_on_after_the_guest_was_held(guest: Guest, peer: Peer) -> None:
    reading = asyncio.create_task(guest.read_stream("c", "c", "Stdout", 100))
    waiting = asyncio.create_task(guest.wait_process("c", "c"))
    await guest.start_container("c")
    async with guest.hold():
        assert not reading.done()
        peer.output["Stdout"].put_nowait(b"late")
        peer.exit.set_result(7)
        late = asyncio.create_task(guest.read_stream("c", "c", "Stderr", 100))
        _, pending = await asyncio.wait({reading, waiting, late}, timeout=0.1)
        assert len(pending) == 3
    peer.output["Stderr"].put_nowait(b"later")
    async with asyncio.timeout(ENOUGH):
        assert (await reading, await waiting, await late) == (b"late", 7, b"later")
    assert [name for name, _ in peer.calls] == ["StartContainer", "Hold", "Release"]


async def test_a_call_that_is_under_way_is_let_finish_and_others_wait(guest: Guest, peer: Peer) -> None:
    peer.held["StartContainer"] = asyncio.Event()
    starting = asyncio.create_task(guest.start_container("first"))
    await peer.heard.wait()
    asyncio.get_running_loop().call_later(0.1, peer.held["StartContainer"].set)
    async with guest.hold():
        assert starting.done()
        late = asyncio.create_task(guest.start_container("second"))
        with pytest.raises(StateError, match="held already"):
            async with guest.hold():
                pass
    await late
    assert [name for name, _ in peer.calls] == ["StartContainer", "Hold", "Release", "StartContainer"]


async def test_the_guest_is_asked_for_a_container_by_the_name_that_it_knows(guest: Guest, peer: Peer) -> None:
    guest.names["new"] = "old"
    await guest.signal_process("new", "new", 9, timeout=ENOUGH)
    request = peer.calls[0][1]
    assert (getattr(request, "container_id"), getattr(request, "exec_id")) == ("old", "old")  # noqa: B009 - any message
