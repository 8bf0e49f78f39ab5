"""A VMM's process as every driver owns it, with a shell in the VMM's place."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from kata.errors import GuestError, StartError
from kata.hypervisor.driver import ignore_start
from kata.hypervisor.launch import Launch, prepare_launch
from kata.hypervisor.process import VmmProcess
from kata.hypervisor.spec import VmSpec
from kata.sys.process import is_alive
from kata.transport.child import Child


class _Vm(VmmProcess):
    """A VM that is made when its VMM says so over a connection of its own."""

    name = "shell"

    def __init__(self, launch: Launch, child: Child, control: socket.socket) -> None:
        super().__init__(launch, child)
        control.setblocking(False)
        self._control = control

    async def _create(self, *, timeout: float) -> None:
        said = await asyncio.get_running_loop().sock_recv(self._control, 100)
        if said != b"made\n":
            raise GuestError(f"{self.name} {said.decode().strip() or 'hung up'}")


def _launch(directory: Path, script: str) -> _Vm:
    """`say` in the script talks over the connection."""
    spec = VmSpec(id="box", directory=str(directory), kernel="", vcpus=1, memory_mib=128)
    with prepare_launch("shell", spec, 1 << 16) as launch:
        (directory / "kept").touch()
        launch.kept.callback(os.unlink, directory / "kept")
        control, theirs = launch.connect()
        argv = ["bash", "-c", f"say() {{ echo $* >&{theirs}; }}; {script}"]
        log = launch.open_log("vmm.log")
        return _Vm(launch, launch.start(argv, log, descriptors=[theirs], output=launch.vmm_console), control)


Launched = Callable[[str], _Vm]


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launched]:
    made = []

    def begin(script: str) -> _Vm:
        made.append(_launch(tmp_path, script))
        return made[-1]

    yield begin
    for vm in made:
        await vm.stop(timeout=0)
        assert not is_alive(vm.pid, vm.start_ticks)
    assert not (tmp_path / "kept").exists()
    assert all(path.suffix == ".log" for path in tmp_path.iterdir())


async def test_a_vm_that_is_made_runs_until_its_vmm_is_asked_to_end(launch: Launched) -> None:
    vm = launch("trap 'echo bye; exit 3' TERM; echo hello; say made; while :; do sleep 0.01; done")
    await vm.bring_up(ignore_start, timeout=20)
    assert await vm.query_state() == "running"
    leaving = await vm.stop(timeout=20)
    assert (leaving.returncode, leaving.reason) == (3, "shell exited with status 3")
    assert leaving.console == "hello\nbye"
    assert await vm.query_state() == "ended"
    assert await vm.stop() == leaving == await vm.wait_exit()


async def test_a_vmm_that_does_not_obey_is_killed(launch: Launched) -> None:
    vm = launch("trap '' TERM; say made; while :; do sleep 0.01; done")
    await vm.bring_up(ignore_start, timeout=20)
    assert (await vm.stop(timeout=0.1)).reason == "shell was killed by signal 9"


async def test_a_vmm_that_gives_up_fails_the_start_with_its_last_words_and_the_console(launch: Launched) -> None:
    vm = launch("echo booting; echo no such machine >&2; exit 1")
    with pytest.raises(StartError, match="shell exited with status 1: no such machine") as raised:
        await vm.bring_up(ignore_start, timeout=20)
    assert raised.value.console == "booting"
    assert vm.has_ended


async def test_a_guest_that_panics_fails_the_start_for_that(launch: Launched) -> None:
    vm = launch("echo 'Kernel panic - not syncing'; exit 0")
    with pytest.raises(StartError, match="the guest's kernel panicked"):
        await vm.bring_up(ignore_start, timeout=20)


async def test_a_vmm_that_refuses_is_ended_and_quoted(launch: Launched) -> None:
    vm = launch("say refused to make it; exec sleep 1000")
    with pytest.raises(StartError, match="shell refused to make it"):
        await vm.bring_up(ignore_start, timeout=20)
    assert vm.has_ended


async def test_a_start_that_takes_too_long_is_given_up(launch: Launched) -> None:
    vm = launch("exec sleep 1000")
    with pytest.raises(StartError, match=r"shell did not start the VM within 0\.1 s"):
        await vm.bring_up(ignore_start, timeout=0.1)
    assert vm.has_ended


async def test_a_start_that_is_cancelled_leaves_no_vmm(launch: Launched) -> None:
    vm = launch("exec sleep 1000")
    told = asyncio.get_running_loop().create_future()
    starting = asyncio.create_task(vm.bring_up(told.set_result, timeout=20))
    assert await told == vm.pid
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert vm.has_ended
