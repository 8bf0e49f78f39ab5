"""The Cloud Hypervisor driver: shows it what the VM needs, starts it confined, and has it make the VM."""

import json
import os
from typing import NamedTuple

from kata.config.model import HypervisorConfig
from kata.errors import ConfigError, UnsupportedError
from kata.hypervisor.accelerator import require_kvm
from kata.hypervisor.binary import Product, find_binary
from kata.hypervisor.cell import API_SOCKET, MEMORY, VSOCK_SOCKET, Cell
from kata.hypervisor.clh.request import IMAGE_UNIT, SAVED, SAVED_FILES, VFIO, build_vm, name_share
from kata.hypervisor.clh.vm import ClhVm
from kata.hypervisor.confinement import confine
from kata.hypervisor.driver import Capabilities, Started, ignore_start
from kata.hypervisor.launch import prepare_launch
from kata.hypervisor.ratelimit import RateLimits, read_limits
from kata.hypervisor.saved import describe_kvm_host, list_files, omit_own
from kata.hypervisor.spec import SharedFs, VmSpec
from kata.hypervisor.vmmuser import derive_user_id
from kata.sys.file import read_text
from kata.sys.landlock import find_landlock_version

_PROGRAM = "cloud-hypervisor"
PRODUCT = Product("Cloud Hypervisor", "clh", "cloud-hypervisor v", (50,))
_CELL = "cell"
_YES = ("Y", "1")
_LEAST_LANDLOCK = 3
"""The version of Landlock's interface that Cloud Hypervisor asks the kernel for, that of Linux 6.2."""


class ClhSettings(NamedTuple):
    """What an operator may set."""

    path: str = _PROGRAM
    accelerator: str = "auto"
    limits: RateLimits = RateLimits()
    tdx: str = "/sys/module/kvm_intel/parameters/tdx"
    """Where the kernel says whether it runs TDX guests."""
    console_limit: int = 1 << 20
    """Bytes of the guest's console that are kept, and of the VMM's own words."""


class CloudHypervisor:
    """The driver. Making one probes the machine; that is cached in the state directory."""

    name = "clh"

    def __init__(self, settings: ClhSettings, state_directory: str | None) -> None:
        self.settings = settings
        self.path, self.version = find_binary(PRODUCT, settings.path, state_directory)
        require_kvm(PRODUCT.name, settings.accelerator, state_directory)
        self._landlock = find_landlock_version() >= _LEAST_LANDLOCK
        self.warning = "" if self._landlock else "this kernel has no Landlock for Cloud Hypervisor's files"

    def find_capabilities(self) -> Capabilities:
        return Capabilities(
            channels=("hybrid-vsock",),
            accelerator="kvm",
            fs_share=True,
            block_hotplug=True,
            net_hotplug=True,
            vfio=True,
            multi_queue=True,
            pause=True,
            balloon=True,
            template=True,
            vcpu_hotplug=True,
            memory_hotplug=True,
            connects_shares=True,
            image_dax=True,
        )

    def find_hybrid_socket(self, spec_directory: str, sandbox: str) -> str:  # noqa: ARG002 - it is in the directory
        return f"{spec_directory}/{_CELL}/{VSOCK_SOCKET}"

    def identify(self, spec: VmSpec) -> tuple[str, tuple[str, ...]]:
        """All that it is asked for, without what one sandbox has for itself, its version, kernel and processor."""
        common = build_vm(_limit_to_host(omit_own(spec)), self.settings.limits, landlock=self._landlock)
        lines = ["Cloud Hypervisor", self.version, json.dumps(common), *describe_kvm_host()]
        return "\n".join(lines), list_files(spec, self.path)

    async def start(self, spec: VmSpec, *, timeout: float = 30.0, started: Started = ignore_start) -> ClhVm:
        check_confidential(spec, self.settings.tdx)
        check_iommu(spec)
        check_image(spec)
        spec = _limit_to_host(spec)
        more = spec.memory_mib if spec.savable or spec.saved else 0
        cell = Cell(f"{spec.directory}/{_CELL}", derive_user_id(spec.id), more_mib=more)
        with prepare_launch(ClhVm.name, spec, self.settings.console_limit) as launch:
            cell.open()
            launch.kept.callback(cell.release)
            _fill_cell(cell, spec)
            server = launch.lent.enter_context(cell.listen(API_SOCKET))
            events, vmm_events = launch.connect()
            child = launch.start(
                confine(build_arguments(self.path, server.fileno(), vmm_events), spec.id, "kvm"),
                launch.open_log("cloud-hypervisor.log"),
                descriptors=(server.fileno(), vmm_events),
                cwd=cell.path,
                output=launch.vmm_console,
            )
            vm = ClhVm(launch, child, cell, self.settings.limits, events, landlock=self._landlock)
        await vm.bring_up(started, timeout=timeout)
        return vm


def check_confidential(spec: VmSpec, parameter: str) -> None:
    """Raise UnsupportedError for a confidential guest where the kernel's `parameter` does not say that it runs any."""
    if not spec.firmware:
        return
    try:
        answer = read_text(parameter).strip()
    except OSError:
        answer = "not there"
    if answer not in _YES:
        reason = f"sandbox {spec.id} is to be a confidential guest, and this host has no TDX"
        raise UnsupportedError(reason, hint=f"{parameter} is {answer}; boot a host that has it with kvm_intel.tdx=1")


def check_image(spec: VmSpec) -> None:
    """Raise ConfigError for an image that is to be memory, and is not of a size that memory can have."""
    if not spec.image or not spec.image_dax:
        return
    try:
        size = os.stat(spec.image).st_size
    except OSError as error:
        reason = f"sandbox {spec.id} needs {spec.image}, which cannot be opened: {error.strerror}"
        raise ConfigError(reason) from error
    if size % IMAGE_UNIT:
        reason = f"sandbox {spec.id} cannot have {spec.image} as memory: its {size} bytes are no multiple of 2 MiB"
        raise ConfigError(reason, hint=f"truncate -s %2M {spec.image}, or set disable_image_nvdimm = true")


def check_iommu(spec: VmSpec) -> None:
    """Raise UnsupportedError for a VM with an IOMMU.

    It puts one before a PCI segment of its own, and where a device is in one the agent's protocol has no words for.
    """
    if spec.iommu:
        reason = f"sandbox {spec.id} is to have an IOMMU for devices of the host, and VMs of Cloud Hypervisor have none"
        raise UnsupportedError(reason, hint='set vfio_mode = "guest-kernel" in [runtime]')


def _limit_to_host(spec: VmSpec) -> VmSpec:
    """Let a VM have devices of the host only where there can be any: it refuses Landlock's rules for no directory."""
    return spec._replace(host_devices=spec.host_devices and os.path.isdir(VFIO))


def build_arguments(path: str, api: int, events: int) -> list[str]:
    """The command line. Seccomp is on by default; it is named so that nobody's defaults turn it off."""
    return [path, "--api-socket", f"fd={api}", "--event-monitor", f"fd={events}", "--seccomp", "true"]


def _fill_cell(cell: Cell, spec: VmSpec) -> None:
    """Show the VMM the files, disks and sockets of a spec. Raise ConfigError."""
    cell.show_vm(spec)
    for device in spec.devices:
        if isinstance(device, SharedFs):
            cell.show_socket(name_share(device.tag), device.path)
    if spec.savable or spec.saved:
        cell.make_file(MEMORY, spec.memory_mib << 20)
    if spec.saved:
        cell.make_directory(SAVED)
        for name, inside in SAVED_FILES.items():
            cell.show_file(inside, f"{spec.saved}/{name}", sandbox=spec.id)


def open_configured(config: HypervisorConfig, state_directory: str | None) -> CloudHypervisor:
    """The driver as the operator wants it."""
    return CloudHypervisor(
        ClhSettings(config.path or _PROGRAM, config.accelerator, read_limits(config)), state_directory
    )
