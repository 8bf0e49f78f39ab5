"""A VM with a process in QEMU's place, a second one in virtiofsd's, and an agent of the test's."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kata.hypervisor.launch import prepare_launch
from kata.hypervisor.qemu.vm import QemuVm
from kata.hypervisor.spec import VmSpec
from kata.resources.oom import OomWatch
from kata.resources.size import VmSize
from kata.sandbox.vm import SandboxVm
from kata.storage.share import Share
from kata.storage.virtiofsd import Virtiofsd
from kata.transport.boundedlog import BoundedLog
from kata.transport.child import start_child
from peer import Peer, open_guest


def start_machine(directory: Path, argv: list[str], *descriptors: int) -> QemuVm:
    """Own a process as a QEMU is owned. Its end of the QMP socket closes when it ends."""
    spec = VmSpec(id="s", directory=str(directory), kernel="", vcpus=1, memory_mib=128)
    with prepare_launch("QEMU", spec, 1 << 20) as launch:
        control, theirs = launch.connect()
        child = launch.start(argv, launch.open_log("qemu.log"), descriptors=(theirs, *descriptors))
        return QemuVm(launch, child, control)


def start_share_server(directory: Path) -> Virtiofsd:
    """Own a process as virtiofsd is owned."""
    connection, theirs = socket.socketpair()
    theirs.close()
    return Virtiofsd(
        start_child("virtiofsd", ["sleep", "60"]), connection, BoundedLog(str(directory / "virtiofsd.log"))
    )


@pytest.fixture
async def vm(tmp_path: Path, peer: Peer) -> AsyncIterator[SandboxVm]:
    async with AsyncExitStack() as owned:
        machine = start_machine(tmp_path, ["sleep", "60"])
        owned.push_async_callback(machine.stop, timeout=0)
        virtiofsd = start_share_server(tmp_path)
        owned.push_async_callback(virtiofsd.stop)
        guest = await open_guest(str(tmp_path / "agent.sock"))
        owned.callback(guest.client.close)
        await guest.start_container("any")  # its answer says that the peer has the connection
        yield SandboxVm(
            guest,
            Share(str(tmp_path), "s"),
            machine,
            virtiofsd,
            owned,
            "vsock://3:1024",
            VmSize(1, 128),
            OomWatch(),
            ports=0,
            scsi=False,
        )


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    peer = Peer()
    server = await peer.serve(str(tmp_path / "agent.sock"))
    yield peer
    server.close()
