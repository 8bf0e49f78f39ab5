import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from kata.errors import HostError, StateError, UsageError
from kata.sandbox import store
from kata.sandbox.attach import Attachment
from kata.sandbox.bundle import read_bundle
from kata.sandbox.container import Container, name_moment
from kata.sandbox.guest import Guest
from kata.sandbox.states import Status
from kata.sandbox.stdio import Stdio
from kata.sandbox.translation import translate_spec
from peer import Peer, open_guest


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    peer = Peer()
    server = await peer.serve(str(tmp_path / "agent.sock"))
    for queue in peer.output.values():
        queue.put_nowait(b"")
    yield peer
    server.close()


@pytest.fixture
async def guest(tmp_path: Path, peer: Peer) -> AsyncIterator[Guest]:
    guest = await open_guest(str(tmp_path / "agent.sock"))
    yield guest
    guest.client.close()
    await guest.client.lost.wait()


def _write_bundle(directory: Path, **more: Any) -> str:
    (directory / "rootfs").mkdir()
    spec = {"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": {"args": ["sh"], "cwd": "/"}, **more}
    (directory / "config.json").write_text(json.dumps(spec))
    return str(directory)


def _make_container(root: Path, guest: Guest, **more: Any) -> Container:
    bundle = read_bundle(_write_bundle(root, **more))
    record = store.ContainerRecord("c", "c", bundle.path, os.getpid(), Status.CREATING, name_moment())
    return Container(str(root), guest, bundle, record, ())


async def _create(container: Container) -> socket.socket:
    stand_in, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    null = [os.open("/dev/null", os.O_RDWR) for _ in range(3)]
    attachment = Attachment(ours, Stdio(*null), os.getpid(), terminal=False)
    try:
        await container.create(translate_spec(container.bundle.spec, "c", container.bundle.path), attachment)
    except BaseException:
        attachment.finish(None)
        stand_in.close()
        raise
    return stand_in


async def test_a_container_goes_from_creating_to_stopped_and_the_disk_knows(
    tmp_path: Path, guest: Guest, peer: Peer
) -> None:
    container = _make_container(tmp_path, guest)
    with await _create(container):
        assert store.read_container(str(tmp_path), "c").status == "created"
        await container.start()
        assert store.read_container(str(tmp_path), "c").status == "running"
        peer.exit.set_result(5)
        assert await container.find_process("").exited == 5
        await container._watcher  # type: ignore[misc]  # created
        record = store.read_container(str(tmp_path), "c")
        assert (record.status, record.exit_status) == ("stopped", 5)
        container.forget(0)


async def test_a_forgotten_container_leaves_no_record_behind(tmp_path: Path, guest: Guest, peer: Peer) -> None:
    container = _make_container(tmp_path, guest)
    with await _create(container):
        watcher = container._watcher
        assert watcher is not None
        container.forget(255)
        await asyncio.wait({watcher})
    assert store.list_containers(str(tmp_path)) == []
    assert container.describe()["status"] == "stopped"


async def test_a_poststart_hook_that_fails_is_told_and_changes_nothing(tmp_path: Path, guest: Guest) -> None:
    hooks = {"poststart": [{"path": "/bin/false"}], "poststop": [{"path": "/bin/false"}]}
    container = _make_container(tmp_path, guest, hooks=hooks)
    with await _create(container):
        [failure] = await container.start()
        assert "poststart hook /bin/false" in failure
        assert container.status == Status.RUNNING
        container.forget(0)
        [failure] = await container.run_poststop()
        assert "poststop hook /bin/false" in failure


async def _cancel_while_held(peer: Peer, name: str, call: Coroutine[Any, Any, object]) -> None:
    """Cancel a call when the guest has it, and let the guest answer then."""
    peer.held[name] = asyncio.Event()
    calling = asyncio.create_task(call)
    await peer.heard.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    peer.held[name].set()


async def test_a_start_whose_caller_is_gone_is_a_start(tmp_path: Path, guest: Guest, peer: Peer) -> None:
    container = _make_container(tmp_path, guest)
    with await _create(container):
        await _cancel_while_held(peer, "StartContainer", container.start())
        await asyncio.wait(container._changes)
        assert container.status == Status.RUNNING
        container.forget(0)


async def test_an_exec_whose_caller_is_gone_has_an_owner_and_ends_with_its_stand_in(
    tmp_path: Path, guest: Guest, peer: Peer
) -> None:
    container = _make_container(tmp_path, guest)
    with await _create(container):
        await container.start()
        stand_in, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        attachment = Attachment(ours, Stdio(*(os.open("/dev/null", os.O_RDWR) for _ in range(3))), 1, terminal=False)
        with stand_in:
            await _cancel_while_held(peer, "ExecProcess", container.exec("e", {"args": ["sh"]}, attachment))
            await asyncio.wait(container._changes)
            process = container.find_process("e")
        async with asyncio.timeout(10):
            assert await process.exited == 128 + signal.SIGKILL
        container.forget(0)


async def test_an_exec_that_is_refused_lets_go_of_its_stand_in(tmp_path: Path, guest: Guest) -> None:
    container = _make_container(tmp_path, guest)
    with await _create(container):
        stand_in, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        attachment = Attachment(ours, Stdio(*(os.open("/dev/null", os.O_RDWR) for _ in range(3))), 1, terminal=False)
        with stand_in:
            with pytest.raises(UsageError, match=r"process\.args"):
                await container.exec("e", {"args": 1}, attachment)
            assert stand_in.recv(1) == b""
        container.forget(0)


@pytest.mark.parametrize("point", ["prestart", "createRuntime", "createContainer"])
async def test_a_hook_before_the_start_that_fails_keeps_the_guest_from_being_asked(
    tmp_path: Path, guest: Guest, peer: Peer, point: str
) -> None:
    container = _make_container(tmp_path, guest, hooks={point: [{"path": "/bin/false"}]})
    with pytest.raises(HostError, match=point):
        await _create(container)
    assert peer.calls == []
    container.forget(0)


async def test_a_running_container_is_deleted_only_by_force(tmp_path: Path, guest: Guest, peer: Peer) -> None:
    container = _make_container(tmp_path, guest)
    with await _create(container):
        await container.start()
        with pytest.raises(StateError, match="must be stopped"):
            await container.delete(force=False)
        await container.delete(force=True)
        assert [name for name, _ in peer.calls][-2:] == ["SignalProcess", "RemoveContainer"]
        container.forget(0)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"root": 5}',
        '{"root": {}}',
        '{"root": {"path": 1}}',
        b"\xff",
    ],
)
def test_a_malformed_bundle_is_an_error_that_names_the_file(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=str(tmp_path / "config.json")):
        read_bundle(str(tmp_path))


def test_a_bundle_without_a_config_says_what_a_bundle_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a bundle holds"):
        read_bundle(str(tmp_path))
