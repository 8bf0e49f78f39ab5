"""The ACRN driver: acrn-dm as the child that is a post-launched VM.

It needs ACRN's hypervisor below this host and a VM of the name in its scenario. What a machine without it can prove of
this driver is proven, and docs/hypervisors.md says what is not.
"""

import os
import re
import socket
from contextlib import ExitStack
from typing import NamedTuple

from kata.config.model import HypervisorConfig
from kata.errors import ConfigError, HostError, NotFoundError, StartError, UnsupportedError
from kata.hypervisor.acrn.arguments import build_arguments
from kata.hypervisor.acrn.vm import AcrnVm
from kata.hypervisor.console import Console, open_log
from kata.hypervisor.driver import Capabilities, Started, ignore_start
from kata.hypervisor.spec import VmSpec
from kata.sys.program import find_program
from kata.transport.child import start_child
from kata.transport.toolversion import ask_version

OLDEST = 3
_PROGRAM = "acrn-dm"
_DEVICE = "/dev/acrn_hsm"
_VERSION = re.compile(r"(\d+)\.(\d+)")
_SETUP_HEADER, _MAGIC = 0x202, b"HdrS"
"""Where a bzImage says that it is one. Source: Documentation/arch/x86/boot.rst."""


class AcrnSettings(NamedTuple):
    """What an operator may set. `name` is a VM of the hypervisor's scenario."""

    path: str = _PROGRAM
    name: str = "POST_STD_VM1"
    cpus: tuple[int, ...] = ()
    console_limit: int = 1 << 20
    device: str = _DEVICE


class Acrn:
    """The driver."""

    name = "acrn"
    warning = ""

    def __init__(self, settings: AcrnSettings, state_directory: str | None) -> None:
        self.settings = settings
        found = find_program(settings.path)
        if found is None:
            raise NotFoundError(f"there is no acrn-dm at {settings.path}", hint="set path in [hypervisor.acrn]")
        self.path = found
        printed = ask_version(found, state_directory)
        match = _VERSION.search(printed)
        if match is None:
            raise HostError(f"{found} --version printed no version of acrn-dm but {printed!r}")
        self.version = match[0]
        if int(match[1]) < OLDEST:
            raise UnsupportedError(f"ACRN {self.version} at {found} is too old", hint=f"{OLDEST}.0 or newer is needed")
        if not os.path.exists(settings.device):
            raise UnsupportedError(
                f"{settings.device} does not exist: this host is no Service VM of ACRN's", hint="use QEMU"
            )

    def find_capabilities(self) -> Capabilities:
        # The hypervisor's device is root's alone, and the hypervisor runs the vCPUs.
        return Capabilities(("vsock",), "acrn", opens_taps=True, own_user=False, vcpu_threads=False)

    def find_hybrid_socket(self, spec_directory: str, sandbox: str) -> str:  # noqa: ARG002 - it has none
        return ""

    def identify(self, spec: VmSpec) -> tuple[str, tuple[str, ...]]:
        raise UnsupportedError(f"sandbox {spec.id}: VMs of ACRN are not saved")

    async def start(self, spec: VmSpec, *, timeout: float = 30.0, started: Started = ignore_start) -> AcrnVm:  # noqa: ARG002 - it has no first word
        _check_kernel(spec)
        cpus = self.settings.cpus or tuple(range(1, spec.vcpus + 1))
        argv = build_arguments(spec, self.path, self.settings.name, cpus=cpus[: spec.vcpus])
        console, dm_console = socket.socketpair()
        with dm_console, ExitStack() as undo:
            undo.callback(console.close)
            log = open_log(spec.directory, "acrn-dm.log", self.settings.console_limit, undo)
            console_log = open_log(spec.directory, "console.log", self.settings.console_limit, undo)
            try:
                child = start_child(
                    f"acrn-dm of sandbox {spec.id}",
                    ["setpriv", "--no-new-privs", "--pdeathsig", "KILL", "--", *argv],
                    log=log,
                    output=dm_console.fileno(),
                )
            except HostError as error:
                raise StartError("hypervisor", error.message, hint=error.hint) from error
            started(child.pid)
            return AcrnVm(spec, child, Console(console, console_log), undo.pop_all())


def _check_kernel(spec: VmSpec) -> None:
    """Raise ConfigError for a kernel that acrn-dm cannot boot, which it would say in its log only."""
    try:
        with open(spec.kernel, "rb") as file:
            head = file.read(_SETUP_HEADER + len(_MAGIC))
    except OSError as error:
        raise ConfigError(f"sandbox {spec.id} needs {spec.kernel}, which cannot be opened: {error.strerror}") from error
    if head[_SETUP_HEADER:] != _MAGIC:
        raise ConfigError(f"the kernel {spec.kernel} is no bzImage, which ACRN boots", hint="set kernel to a vmlinuz")


def open_configured(config: HypervisorConfig, state_directory: str | None) -> Acrn:
    """The driver as the operator wants it."""
    return Acrn(AcrnSettings(path=config.path or _PROGRAM), state_directory)
