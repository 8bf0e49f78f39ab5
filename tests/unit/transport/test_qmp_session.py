import asyncio
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kata.errors import DeadlineError, GuestError, HostError, ProtocolError
from kata.transport.child import start_child
from kata.transport.qmp import QmpSession

QEMU = shutil.which("qemu-system-x86_64")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="needs qemu-system-x86_64")
GREETING = b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}\n'


@pytest.fixture
async def session() -> AsyncIterator[QmpSession]:
    """A session with a real QEMU that has no machine."""
    assert QEMU is not None
    ours, theirs = socket.socketpair()
    words = ["-nodefaults", "-machine", "none", "-display", "none", "-mon", "q,mode=control"]
    argv = [QEMU, *words, "-chardev", f"socket,id=q,fd={theirs.fileno()}"]
    child = start_child("QEMU", argv, descriptors=(theirs.fileno(),))
    theirs.close()
    session = QmpSession(ours)
    await session.open(timeout=20)
    yield session
    await session.close()
    await child.stop()


@needs_qemu
async def test_a_session_greets_negotiates_and_answers(session: QmpSession) -> None:
    assert session.greeting is not None
    assert session.greeting.version >= (7, 2, 0)
    assert (await session.execute("query-status"))["running"] is True


@needs_qemu
async def test_a_refusal_quotes_qemu(session: QmpSession) -> None:
    with pytest.raises(HostError, match=r"QEMU refused device_del: Device 'nothing' not found"):
        await session.execute("device_del", {"id": "nothing"})


@needs_qemu
async def test_commands_of_many_tasks_get_their_own_answers(session: QmpSession) -> None:
    names = ["query-status", "query-name", "query-version", "query-uuid"] * 5
    answers = await asyncio.gather(*(session.execute(name) for name in names))
    keys = {"query-status": "running", "query-version": "qemu", "query-uuid": "UUID"}
    assert all(keys[name] in answer for name, answer in zip(names, answers, strict=True) if name in keys)


@needs_qemu
async def test_a_descriptor_travels_with_its_command(session: QmpSession, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"\0" * 4096)
    descriptor = os.open(disk, os.O_RDWR)
    try:
        added = await session.execute("add-fd", descriptors=(descriptor,))
    finally:
        os.close(descriptor)
    filename = f"/dev/fdset/{added['fdset-id']}"
    await session.execute("blockdev-add", {"driver": "file", "node-name": "d", "filename": filename})
    nodes = await session.execute("query-named-block-nodes")
    assert [node["image"]["virtual-size"] for node in nodes if node["node-name"] == "d"] == [4096]


@needs_qemu
async def test_an_event_that_came_before_the_wait_is_found(session: QmpSession) -> None:
    await session.execute("stop")
    await session.wait_event("STOP", timeout=5)


@needs_qemu
async def test_a_hang_up_fails_the_command_that_waits_and_the_next(session: QmpSession) -> None:
    await session.execute("quit")
    await session.wait_closed(timeout=10)
    with pytest.raises(GuestError, match="QEMU"):
        await session.execute("query-status")
    with pytest.raises(GuestError, match="QEMU"):
        await session.wait_event("NEVER", timeout=5)


async def test_a_silent_peer_runs_into_the_deadline() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        session = QmpSession(ours)
        with pytest.raises(DeadlineError, match="did not open its QMP session"):
            await session.open(timeout=0.05)
        await session.close()


async def test_a_peer_that_speaks_nonsense_is_named_in_the_error() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"SSH-2.0-OpenSSH\r\n")
        session = QmpSession(ours)
        with pytest.raises(ProtocolError, match="no JSON"):
            await session.open(timeout=5)
        await session.close()


async def test_a_late_answer_does_not_disturb_the_next_command() -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    async def read_number() -> int:
        return int(json.loads(await loop.sock_recv(theirs, 65536))["id"])

    with theirs:
        theirs.send(GREETING)
        session = QmpSession(ours)
        opening = asyncio.create_task(session.open(timeout=5))
        theirs.send(json.dumps({"return": {}, "id": await read_number()}).encode() + b"\n")
        await opening
        with pytest.raises(DeadlineError, match="did not answer stop"):
            await session.execute("stop", timeout=0.05)
        late = await read_number()
        asking = asyncio.create_task(session.execute("cont", timeout=5))
        now = await read_number()
        theirs.send(b"".join(json.dumps({"return": n, "id": n}).encode() + b"\n" for n in (late, now)))
        assert await asking == now
        await session.close()
