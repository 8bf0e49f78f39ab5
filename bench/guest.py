"""VMs without a runtime: the same machine and kernel as a sandbox's, started by nothing but QEMU."""

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kata.config.artifacts import Artifacts, find_artifacts
from kata.config.load import load_configuration
from kata.hypervisor.channel import AGENT_PORT, format_port_name
from kata.hypervisor.qemu.arguments import Descriptors, Machine, build_arguments
from kata.hypervisor.qemu.driver import Qemu, QemuSettings
from kata.hypervisor.spec import Rng, SerialPort, VmSpec
from kata.image.rootfs.agent import AGENT_PROGRAM
from kata.image.rootfs.cpio import encode_tree
from kata.image.rootfs.tree import Tree, make_console, make_directory, make_file
from kata.protocol.messages import agent
from kata.sandbox.description import list_kernel_parameters
from kata.sys.unixsocket import listen_unix
from kata.transport.ttrpc import connect_unix

_TIMEOUT = 60.0
_GREETING = b"bench: init runs"
_INIT = r"""
#include <unistd.h>
#include <sys/reboot.h>
int main(void) {
    static const char text[] = "bench: init runs\n";
    write(1, text, sizeof text - 1);
    reboot(RB_POWER_OFF);
    for (;;) pause();
}
"""


@dataclass(frozen=True, slots=True)
class Launch:
    """A started QEMU: its process, the host's end of the guest's console, the moment before its start."""

    process: subprocess.Popen[bytes]
    console: socket.socket
    began: float


def build_initrd(directory: Path) -> Path:
    """Compile an init that says a word and powers off, and pack it. Raise CalledProcessError, FileNotFoundError."""
    source, program, packed = directory / "init.c", directory / "init", directory / "init.cpio"
    source.write_text(_INIT)
    subprocess.run(["gcc", "-static", "-Os", "-o", program, source], check=True)
    tree = Tree()
    tree.add("dev", make_directory())
    tree.add("dev/console", make_console())
    # In the agent's place, so that the kernel's command line is a sandbox's too.
    tree.add(AGENT_PROGRAM, make_file(program.read_bytes(), 0o755))
    packed.write_bytes(b"".join(encode_tree(tree)))
    return packed


def time_bare_init(directory: Path, initrd: Path) -> float:
    """Return the seconds from starting QEMU to the init's first word. Raise RuntimeError when it never comes."""
    artifacts = Artifacts(find_artifacts(load_configuration(None).hypervisor).kernel, initrd=str(initrd))
    with _launch(directory, artifacts, ports=()) as launch:
        launch.console.settimeout(_TIMEOUT)
        said = b""
        while _GREETING not in said:
            data = launch.console.recv(65536)
            if not data:
                raise RuntimeError(f"the bare VM ended without a word of its init: {said[-500:]!r}")
            said += data
        return time.monotonic() - launch.began


def read_agent_metrics(directory: Path) -> str:
    """Boot the guest's image and return what its agent says of itself, in Prometheus' format."""
    path = str(directory / "agent.sock")
    port = SerialPort(format_port_name(AGENT_PORT), path)
    with _launch(directory, find_artifacts(load_configuration(None).hypervisor), ports=(port,)):
        return asyncio.run(_ask_metrics(path))


async def _ask_metrics(path: str) -> str:
    client = await connect_unix(path, "the agent", timeout=_TIMEOUT)
    try:
        answer = await client.call(
            "grpc.AgentService", "GetMetrics", agent.GetMetricsRequest(), agent.Metrics, timeout=_TIMEOUT
        )
    finally:
        client.close()
        await asyncio.sleep(0)  # lets asyncio close the socket
    return answer.metrics


@contextmanager
def _launch(directory: Path, artifacts: Artifacts, ports: tuple[SerialPort, ...]) -> Iterator[Launch]:
    config = load_configuration(None)
    driver = Qemu(QemuSettings(path=config.hypervisor.path or "qemu-system-x86_64"), str(directory))
    spec = VmSpec(
        id="bench",
        directory=str(directory),
        kernel=artifacts.kernel,
        image=artifacts.image or None,
        initrd=artifacts.initrd or None,
        vcpus=config.hypervisor.default_vcpus,
        memory_mib=config.hypervisor.default_memory,
        kernel_parameters=tuple(list_kernel_parameters(config, artifacts, f"vport://{AGENT_PORT}")),
        devices=(Rng(), *ports),
    )
    with ExitStack() as stack:
        console, far_console = socket.socketpair()
        control, far_control = socket.socketpair()
        for end in (console, far_console, control, far_control):
            stack.callback(end.close)
        listening = {port.name: stack.enter_context(listen_unix(port.path)).fileno() for port in ports}
        kernel, image, initrd = (
            _open(path, stack) if path else None for path in (spec.kernel, spec.image, spec.initrd)
        )
        assert kernel is not None
        descriptors = Descriptors(
            qmp=far_control.fileno(),
            console=far_console.fileno(),
            kernel=kernel,
            image=image,
            initrd=initrd,
            disks={},
            ports=listening,
        )
        machine = Machine(driver.path, driver.acceleration.accelerator, tb_size=driver.settings.tb_size)
        arguments = build_arguments(spec, machine, descriptors)
        files = tuple(number for number in (kernel, image, initrd) if number is not None)
        inherited = (far_control.fileno(), far_console.fileno(), *listening.values(), *files)
        began = time.monotonic()
        process = subprocess.Popen(arguments, pass_fds=inherited, stdin=subprocess.DEVNULL)
        far_console.close()
        try:
            yield Launch(process, console, began)
        finally:
            process.kill()
            process.wait()


def _open(path: str, stack: ExitStack) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor
