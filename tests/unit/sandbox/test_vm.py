"""How a VM ends, with a process in QEMU's place: what is tested is who says why, and what is left."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kata.config.model import AgentConfig, Configuration
from kata.errors import DeadlineError, GuestError, StateError
from kata.hypervisor.channel import AGENT_PORT
from kata.observe.log import Log
from kata.observe.timeline import Timeline
from kata.sandbox import store
from kata.sandbox.attach import Attachment, AttachServer
from kata.sandbox.bundle import read_bundle
from kata.sandbox.container import Container, name_moment
from kata.sandbox.guest import LOST_STATUS
from kata.sandbox.line import Line, find_port_socket
from kata.sandbox.reach import reach_agent
from kata.sandbox.sandbox import Sandbox
from kata.sandbox.site import Site
from kata.sandbox.states import SandboxState, Status
from kata.sandbox.stdio import Stdio
from kata.sandbox.translation import translate_spec
from kata.sandbox.vm import SandboxVm
from kata.sys.process import is_alive
from kata.transport.child import start_child
from peer import Peer
from unit.sandbox.made_vm import peer, start_machine, start_share_server, vm

__all__ = ["peer", "vm"]

_DIES_WHEN_CALLED = """
import os, socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
connection, _ = listener.accept()
connection.recv(1)
connection.close()
os.execvp("sh", ["sh", "-c", "echo out of memory >&2; exit 3"])
"""
_GARBAGE = b"\xff" * 64


def _hang_up(peer: Peer) -> None:
    [connection] = peer.connections
    assert connection._transport is not None
    connection._transport.close()


def _talk_nonsense(peer: Peer) -> None:
    [connection] = peer.connections
    assert connection._transport is not None
    connection._transport.write(_GARBAGE)


async def test_a_vmm_that_dies_while_its_agent_is_awaited_says_why(tmp_path: Path) -> None:
    with _listen_for_agent(tmp_path) as listener:
        argv = [sys.executable, "-ISc", _DIES_WHEN_CALLED, str(listener.fileno())]
        machine = start_machine(tmp_path, argv, listener.fileno())
    virtiofsd = start_share_server(tmp_path)
    try:
        with pytest.raises(GuestError, match="QEMU exited with status 3: out of memory"):
            await reach_agent(_describe_site(tmp_path), machine, virtiofsd, Line("vport://1024", (), str(tmp_path)))
    finally:
        await virtiofsd.stop()
        await machine.stop(timeout=0)


async def test_an_agent_that_is_silent_is_given_up_when_its_vm_wants_no_cpu(tmp_path: Path) -> None:
    machine = start_machine(tmp_path, ["sleep", "60"])
    virtiofsd = start_share_server(tmp_path)
    site = _describe_site(tmp_path)
    site = site._replace(config=Configuration(agent=AgentConfig(dial_timeout=1)))
    try:
        with (
            _listen_for_agent(tmp_path),
            pytest.raises(DeadlineError, match="did not answer its first call"),
        ):
            await reach_agent(site, machine, virtiofsd, Line("vport://1024", (), str(tmp_path)))
    finally:
        await virtiofsd.stop()
        await machine.stop(timeout=0)


async def test_a_share_that_is_lost_while_the_agent_is_awaited_says_why(tmp_path: Path) -> None:
    machine = start_machine(tmp_path, ["sleep", "60"])
    virtiofsd = start_share_server(tmp_path)
    try:
        with _listen_for_agent(tmp_path):
            line = Line("vport://1024", (), str(tmp_path))
            reaching = asyncio.create_task(reach_agent(_describe_site(tmp_path), machine, virtiofsd, line))
            os.kill(virtiofsd.pid, signal.SIGKILL)
            with pytest.raises(GuestError, match="virtiofsd was killed by signal 9"):
                await asyncio.wait_for(reaching, 10)
    finally:
        await virtiofsd.stop()
        await machine.stop(timeout=0)


def _describe_site(directory: Path) -> Site:
    at = str(directory)
    return Site("s", at, at, Configuration(), Timeline(f"{at}/t"), Log("s", "test"))


def _listen_for_agent(directory: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(find_port_socket(str(directory), AGENT_PORT))
    listener.listen()
    return listener


@pytest.mark.parametrize(
    ("break_line", "reason"),
    [(_hang_up, "the agent closed the connection"), (_talk_nonsense, "frame")],
    ids=["lost", "corrupt"],
)
async def test_a_vm_whose_agent_is_lost_is_ended(
    peer: Peer, vm: SandboxVm, break_line: Callable[[Peer], None], reason: str
) -> None:
    ending = asyncio.create_task(vm.wait_end())
    break_line(peer)
    async with asyncio.timeout(10):
        assert reason in await ending
    assert not is_alive(vm.machine.pid, vm.machine.start_ticks)


async def test_a_vmm_that_is_killed_is_named_before_what_its_death_broke(peer: Peer, vm: SandboxVm) -> None:
    ending = asyncio.create_task(vm.wait_end())
    vm.guest.client.close()
    await vm.guest.client.lost.wait()
    await vm.machine.stop(timeout=0)
    async with asyncio.timeout(10):
        assert await ending == "QEMU was killed by signal 9"


async def test_the_processes_of_a_sandbox_whose_agent_is_lost_end_as_lost_and_the_log_says_why(
    tmp_path: Path, peer: Peer, vm: SandboxVm, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = read_bundle(_write_bundle(tmp_path))
    record = store.ContainerRecord("c", "s", bundle.path, os.getpid(), Status.CREATING, name_moment())
    container = Container(str(tmp_path), vm.guest, bundle, record, ())
    stand_in, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    attachment = Attachment(ours, Stdio(*(os.open("/dev/null", os.O_RDWR) for _ in range(3))), 1, terminal=False)
    await container.create(translate_spec(bundle.spec, "c", bundle.path), attachment)
    with stand_in, socket.socket(socket.AF_UNIX) as unused:
        sandbox = Sandbox(str(tmp_path), "s", AttachServer(unused), Log("s", "sandbox"))
        sandbox.containers["c"] = container
        watching = asyncio.create_task(sandbox._watch_vm(vm))
        _talk_nonsense(peer)
        async with asyncio.timeout(10):
            await watching
            assert await container.find_process("").exited == LOST_STATUS
        container.forget(LOST_STATUS)
    assert "the VM ended" in capsys.readouterr().err


async def test_a_console_is_quoted_in_lines_without_what_a_terminal_would_obey(tmp_path: Path, vm: SandboxVm) -> None:
    (tmp_path / "console.log").write_bytes(b"\x1b[2Jone\r\n\ttwo\xc2\x9b\x07\xe2\x80\xae\n")
    assert vm.machine.read_console() == "?[2Jone\n\ttwo???"


async def test_the_last_words_of_a_vmm_keep_their_lines_only() -> None:
    child = start_child("QEMU", ["sh", "-c", "printf 'one\\n\\033[31mtwo' >&2"])
    assert (await child.wait()).stderr == "one\n?[31mtwo"


async def test_a_forced_deletion_ends_a_creation_and_leaves_nothing(tmp_path: Path, vm: SandboxVm) -> None:
    with socket.socket(socket.AF_UNIX) as unused:
        sandbox = Sandbox(str(tmp_path), "s", AttachServer(unused), Log("s", "sandbox"))
        sandbox._state, sandbox._vm = SandboxState.RUNNING, vm
        sandbox._started = asyncio.create_task(asyncio.sleep(0, vm))
        creating = asyncio.create_task(sandbox.create_container("c", _write_bundle(tmp_path), os.getpid()))
        # Its stand-in never comes, so it cannot end by itself.
        await asyncio.wait({creating}, timeout=0)
        assert sandbox._creations
        with pytest.raises(StateError, match="is being created"):
            await sandbox.delete_container("c", force=False)
        async with asyncio.timeout(5):
            await sandbox.delete_container("c", force=True)
            with pytest.raises(StateError, match="deleted while it was created"):
                await creating
            await sandbox.gone.wait()
    assert not sandbox.containers
    assert not is_alive(vm.machine.pid, vm.machine.start_ticks)


def _write_bundle(directory: Path) -> str:
    (directory / "rootfs").mkdir()
    (directory / "config.json").write_text(json.dumps({"root": {"path": "rootfs"}, "process": {"args": ["sh"]}}))
    return str(directory)
