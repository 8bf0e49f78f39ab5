"""A VM with nothing but the agent, driven over virtio-serial: QEMU, the built image, and a disk with a busybox root.

The image is built from this tree by `kata-image`; its cache makes that a second's work. Tests that need the VM are
skipped, loudly, where QEMU or the kernel is missing.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from kata.errors import KataError
from kata.protocol.messages import agent, health, oci, types
from kata.protocol.protobuf import Message
from kata.transport.ttrpc import Client, connect_unix

Reply = TypeVar("Reply", bound=Message)

_TREE = Path(__file__).parents[2]
_KERNEL = Path(os.environ.get("KATA_ARTEFACTS", "/usr/local/share/kata-containers")) / "vmlinux.container"
_BUSYBOX = Path("/bin/busybox")
_BOOT_TIMEOUT = 120.0
_CALL_TIMEOUT = 60.0
SERVICE = "grpc.AgentService"
BASE = "/run/kata-containers"
PATH = "PATH=/bin:/sbin"
CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_MKNOD", "CAP_SETUID", "CAP_SETGID"]


class AgentVm:
    """A running VM. `booted` is the seconds from QEMU's start to the agent's first answer."""

    def __init__(self, directory: Path, process: "subprocess.Popen[bytes]", client: Client, booted: float) -> None:
        self.directory = directory
        self.process = process
        self.client = client
        self.booted = booted

    async def call(
        self, method: str, request: Message, reply: type[Reply], *, timeout: float | None = _CALL_TIMEOUT
    ) -> Reply:
        return await self.client.call(SERVICE, method, request, reply, timeout=timeout)

    async def do(self, method: str, request: Message) -> None:
        await self.call(method, request, types.Empty)

    async def create(self, container_id: str, *args: str, start: bool = True, **changes: Any) -> None:
        """Create a container with a writable root, and start it. `changes` are fields of the process."""
        request = make_container(container_id, *args, **changes)
        await self.do("CreateContainer", request)
        if start:
            await self.do("StartContainer", agent.StartContainerRequest(container_id=container_id))

    async def execute(self, container_id: str, exec_id: str, *args: str, **changes: Any) -> None:
        process = make_process(*args, **changes)
        request = agent.ExecProcessRequest(container_id=container_id, exec_id=exec_id, process=process)
        await self.do("ExecProcess", request)

    async def read(self, container_id: str, exec_id: str = "", *, error: bool = False) -> bytes:
        """Everything until the end."""
        method = "ReadStderr" if error else "ReadStdout"
        data = b""
        while True:
            request = agent.ReadStreamRequest(container_id=container_id, exec_id=exec_id, len=1 << 20)
            part = (await self.call(method, request, agent.ReadStreamResponse)).data
            if not part:
                return data
            data += part

    async def wait(self, container_id: str, exec_id: str = "") -> int:
        request = agent.WaitProcessRequest(container_id=container_id, exec_id=exec_id)
        return (await self.call("WaitProcess", request, agent.WaitProcessResponse)).status

    async def signal(self, container_id: str, number: int, exec_id: str = "") -> None:
        request = agent.SignalProcessRequest(container_id=container_id, exec_id=exec_id, signal=number)
        await self.do("SignalProcess", request)

    async def remove(self, container_id: str) -> None:
        await self.do("RemoveContainer", agent.RemoveContainerRequest(container_id=container_id))

    async def run(self, container_id: str, *args: str, **changes: Any) -> tuple[bytes, bytes, int]:
        """Create, start, read to the end, wait, remove: output, error output, status."""
        await self.create(container_id, *args, **changes)
        output = await self.read(container_id)
        errors = await self.read(container_id, error=True)
        status = await self.wait(container_id)
        await self.remove(container_id)
        return output, errors, status

    def read_console(self) -> str:
        return (self.directory / "console.log").read_text(errors="replace")


def make_process(*args: str, **changes: Any) -> oci.Process:
    capabilities = oci.LinuxCapabilities(Bounding=CAPABILITIES, Effective=CAPABILITIES, Permitted=CAPABILITIES)
    values = {"Args": list(args), "Env": [PATH], "Cwd": "/", "User": oci.User(), "Capabilities": capabilities}
    return oci.Process(**{**values, **changes})


def make_container(container_id: str, *args: str, **changes: Any) -> agent.CreateContainerRequest:
    """A request for a container whose root is the busybox disk with a writable layer over it."""
    rootfs = f"{BASE}/{container_id}/rootfs"
    lower = f"{BASE}/sandbox/busybox"
    storages = [
        agent.Storage(driver="blk", source="/dev/vdb", fstype="erofs", options=["ro"], mount_point=lower),
        agent.Storage(
            driver="overlayfs",
            source="overlay",
            options=[f"lowerdir={lower}", "io.katacontainers.fs-opt.overlay-rw"],
            mount_point=rootfs,
        ),
    ]
    spec = oci.Spec(
        Version="1.0.2",
        Process=make_process(*args, **changes),
        Root=oci.Root(Path=rootfs),
        Hostname="pod",
        Mounts=[
            oci.Mount(destination="/proc", type="proc", source="proc"),
            oci.Mount(destination="/dev", type="tmpfs", source="tmpfs", options=["nosuid", "mode=755"]),
            oci.Mount(destination="/dev/pts", type="devpts", source="devpts", options=["newinstance", "ptmxmode=0666"]),
            oci.Mount(destination="/sys", type="sysfs", source="sysfs", options=["ro", "nosuid", "noexec", "nodev"]),
        ],
        Linux=oci.Linux(
            CgroupsPath=f"/pod/{container_id}",
            Resources=oci.LinuxResources(),
            Namespaces=[oci.LinuxNamespace(Type=kind) for kind in ("ipc", "uts", "mount", "pid", "network")],
        ),
    )
    return agent.CreateContainerRequest(container_id=container_id, OCI=spec, storages=storages)


def require_tools() -> None:
    missing = [tool for tool in ("qemu-system-x86_64", "mkfs.erofs") if shutil.which(tool) is None]
    missing += [str(path) for path in (_KERNEL, _BUSYBOX) if not path.exists()]
    if missing:
        pytest.skip(f"no guest can be booted here: missing {', '.join(missing)}")


def build_image(output: Path, *, debug: bool = False) -> None:
    """The guest's image and initrd from this tree; with `debug`, those that have a shell."""
    argv = [sys.executable, "-m", "kata.image.main", "rootfs", "--source", str(_TREE / "src/kata"), "--output"]
    argv += [str(output), *(["--debug"] if debug else [])]
    subprocess.run(argv, check=True, env={**os.environ, "PYTHONPATH": str(_TREE / "src")}, timeout=600)


def build_disk(path: Path) -> None:
    """A disk with a root of busybox: `/bin` full of applets, and the empty directories of a container."""
    root = path.with_suffix(".d")
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root"):
        (root / name).mkdir(parents=True)
    shutil.copy(_BUSYBOX, root / "bin/busybox")
    names = subprocess.run([_BUSYBOX, "--list"], check=True, capture_output=True, text=True, timeout=10).stdout
    for name in names.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nalice:x:1000:100::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nusers:x:100:\nwheel:x:10:alice\n")
    subprocess.run(["mkfs.erofs", str(path), str(root)], check=True, capture_output=True, timeout=60)


def _make_arguments(directory: Path, artefacts: Path, *, initrd: bool, memory: int, debug: bool) -> list[str]:
    ports = []
    for number in (1024, 1025, 1026):
        ports += ["-chardev", f"socket,id=c{number},path={directory}/vport-{number}.sock,server=on,wait=off"]
        ports += ["-device", f"virtserialport,chardev=c{number},name=kata.vport.{number}"]
    root = "rdinit=/usr/sbin/kata-agent" if initrd else "root=/dev/vda rootfstype=erofs ro init=/usr/sbin/kata-agent"
    options = "agent.server_addr=vport://1024 agent.log_vport=1025 agent.debug_console_vport=1026 agent.log=debug"
    command_line = f"console=ttyS0 quiet panic=-1 reboot=k {root} {options}"
    name = "kata-containers-debug" if debug else "kata-containers"
    if debug:
        command_line += " agent.debug_console"
    return [
        *("qemu-system-x86_64", "-accel", "tcg", "-M", "q35", "-cpu", "max", "-smp", "1", "-m", str(memory)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-serial", f"file:{directory}/console.log"),
        *("-kernel", str(_KERNEL), "-append", command_line),
        *(("-initrd", f"{artefacts}/{name}-initrd.img") if initrd else ()),
        *(
            "-drive",
            f"file={artefacts}/{name}.img,format=raw,if=none,id=root,readonly=on",
            "-device",
            "virtio-blk-pci,drive=root",
        ),
        *("-drive", f"file={artefacts}/busybox.img,format=raw,if=none,id=busybox,readonly=on"),
        *("-device", "virtio-blk-pci,drive=busybox"),
        *("-device", "virtio-serial-pci", *ports),
    ]


def _start(argv: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(argv)


@asynccontextmanager
async def boot_vm(
    directory: Path, artefacts: Path, *, initrd: bool = False, memory: int = 512, debug: bool = False
) -> AsyncIterator[AgentVm]:
    """Boot, wait for the agent, and make a sandbox. The VM is killed at the end; its console stays in `directory`."""
    began = time.monotonic()
    process = _start(_make_arguments(directory, artefacts, initrd=initrd, memory=memory, debug=debug))
    try:
        client = await _connect(directory, process)
        vm = AgentVm(directory, process, client, time.monotonic() - began)
        try:
            await vm.do("CreateSandbox", agent.CreateSandboxRequest(sandbox_id="box", hostname="pod"))
            yield vm
        finally:
            client.close()
    finally:
        process.kill()
        process.wait(10)


async def _connect(directory: Path, process: "subprocess.Popen[bytes]") -> Client:
    """Connect as soon as QEMU listens. A call that is sent early waits in the socket until the guest opens its port."""
    deadline = time.monotonic() + _BOOT_TIMEOUT
    client: Client | None = None
    while client is None:
        assert process.poll() is None, "QEMU has ended at once"
        assert time.monotonic() < deadline
        with contextlib.suppress(KataError):
            client = await connect_unix(f"{directory}/vport-1024.sock", "the agent", timeout=1)
        await asyncio.sleep(0 if client else 0.02)
    try:
        check = health.CheckRequest()
        await client.call("grpc.Health", "Check", check, health.HealthCheckResponse, timeout=_BOOT_TIMEOUT)
    except KataError as error:
        console = (directory / "console.log").read_text(errors="replace")
        raise AssertionError(f"the agent did not answer; end of the console:\n{console[-3000:]}") from error
    return client
