"""The Firecracker driver: a jail with what the VM needs, Firecracker in it by its jailer, and the calls to start it."""

import json
import os
from typing import NamedTuple

from kata.config.model import HypervisorConfig
from kata.errors import NotFoundError
from kata.hypervisor.accelerator import require_kvm
from kata.hypervisor.binary import Product, find_binary
from kata.hypervisor.cell import API_SOCKET, MEMORY, VSOCK_SOCKET, Cell
from kata.hypervisor.driver import Capabilities, Started, ignore_start
from kata.hypervisor.firecracker.request import EMPTY, STATE, build_calls
from kata.hypervisor.firecracker.vm import FirecrackerVm
from kata.hypervisor.launch import prepare_launch
from kata.hypervisor.ratelimit import RateLimits, read_limits
from kata.hypervisor.saved import describe_kvm_host, list_files, omit_own
from kata.hypervisor.spec import VmSpec
from kata.hypervisor.vmmuser import derive_user_id
from kata.sys.digest import digest_bytes
from kata.sys.program import find_program

_PROGRAM, _JAILER = "firecracker", "jailer"
PRODUCT = Product("Firecracker", "firecracker", "Firecracker v", (1, 16))
_JAIL = "jail"
_LOG, _METRICS = "log.fifo", "metrics.fifo"
_SECTOR = 512


class FirecrackerSettings(NamedTuple):
    """What an operator may set."""

    path: str = _PROGRAM
    jailer: str = _JAILER
    accelerator: str = "auto"
    limits: RateLimits = RateLimits()
    console_limit: int = 1 << 20
    """Bytes of the guest's console that are kept, and of each of the VMM's logs."""


class Firecracker:
    """The driver. Making one probes the machine; that is cached in the state directory."""

    name = "firecracker"
    warning = ""

    def __init__(self, settings: FirecrackerSettings, state_directory: str | None) -> None:
        self.settings = settings
        self.path, self.version = find_binary(PRODUCT, settings.path, state_directory)
        jailer = find_program(settings.jailer)
        if jailer is None:
            hint = "install it with Firecracker, or set jailer_path in [hypervisor.firecracker]"
            raise NotFoundError(f"there is no jailer at {settings.jailer}", hint=hint)
        self._jailer = jailer
        require_kvm(PRODUCT.name, settings.accelerator, state_directory)

    def find_capabilities(self) -> Capabilities:
        return Capabilities(
            channels=("hybrid-vsock",),
            accelerator="kvm",
            block_hotplug=True,
            pause=True,
            balloon=True,
            template=True,
            opens_taps=True,
        )

    def find_hybrid_socket(self, spec_directory: str, sandbox: str) -> str:
        return f"{self._find_cell(spec_directory, sandbox).path}/{VSOCK_SOCKET}"

    def _find_cell(self, spec_directory: str, sandbox: str, *, more_mib: int = 0) -> Cell:
        # The directory that jailer(1) makes itself of its arguments.
        below = f"{os.path.basename(os.path.realpath(self.path))}/{name_jail(sandbox)}/root"
        return Cell(f"{spec_directory}/{_JAIL}", derive_user_id(sandbox), below=below, more_mib=more_mib)

    def identify(self, spec: VmSpec) -> tuple[str, tuple[str, ...]]:
        """All that it is asked for, without what one sandbox has for itself, its version, kernel and processor."""
        common = build_calls(omit_own(spec), self.settings.limits)
        lines = ["Firecracker", self.version, json.dumps(common), *describe_kvm_host()]
        return "\n".join(lines), list_files(spec, self.path)

    async def start(self, spec: VmSpec, *, timeout: float = 30.0, started: Started = ignore_start) -> FirecrackerVm:
        # It writes all of the memory when it saves a VM.
        cell = self._find_cell(spec.directory, spec.id, more_mib=spec.memory_mib if spec.savable else 0)
        with prepare_launch(FirecrackerVm.name, spec, self.settings.console_limit) as launch:
            cell.open()
            launch.kept.callback(cell.release)
            _fill_cell(cell, spec)
            log = launch.open_log("firecracker.log")
            launch.follow(cell.make_fifo(_LOG), log)
            launch.follow(cell.make_fifo(_METRICS), launch.open_log("firecracker-metrics.log"))
            argv = build_arguments(self._jailer, os.path.realpath(self.path), cell, name_jail(spec.id))
            child = launch.start(argv, log, output=launch.vmm_console)
            vm = FirecrackerVm(launch, child, cell, self.settings.limits)
        await vm.bring_up(started, timeout=timeout)
        return vm


def name_jail(sandbox: str) -> str:
    """The jailer's id of a sandbox: it takes letters, digits and hyphens, and 64 of them."""
    return digest_bytes(sandbox.encode()).hex()[:32]


def build_arguments(jailer: str, firecracker: str, cell: Cell, jail: str) -> list[str]:
    """The command line of jailer(1). cgroup and network namespace are those that it is started in.

    Firecracker has its seccomp filters by default, and no MMDS unless one is asked for.
    """
    return [
        *(jailer, "--id", jail, "--exec-file", firecracker),
        *("--uid", str(cell.user), "--gid", str(cell.user), "--chroot-base-dir", cell.mount_point),
        *("--", "--api-sock", f"/{API_SOCKET}", "--log-path", f"/{_LOG}", "--level", "Warn"),
        *("--metrics-path", f"/{_METRICS}"),
    ]


def _fill_cell(cell: Cell, spec: VmSpec) -> None:
    """Show Firecracker the files and disks of a spec. Raise ConfigError."""
    cell.show_vm(spec)
    cell.make_file(EMPTY, _SECTOR)
    if spec.saved:
        for name in (MEMORY, STATE):
            cell.show_file(name, f"{spec.saved}/{name}", sandbox=spec.id)


def open_configured(config: HypervisorConfig, state_directory: str | None) -> Firecracker:
    """The driver as the operator wants it."""
    settings = FirecrackerSettings(
        config.path or _PROGRAM, config.jailer_path or _JAILER, config.accelerator, read_limits(config)
    )
    return Firecracker(settings, state_directory)
