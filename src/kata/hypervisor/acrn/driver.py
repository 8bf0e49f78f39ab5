"""The ACRN driver: acrn-dm as the child that is a post-launched VM.

It needs ACRN's hypervisor below this host and a VM of the name in its scenario. What a machine without it can prove of
this driver is proven, and docs/hypervisors.md says what is not.
"""

import os
from typing import NamedTuple

from kata.config.model import HypervisorConfig
from kata.errors import ConfigError, UnsupportedError
from kata.hypervisor.acrn.arguments import build_arguments
from kata.hypervisor.acrn.vm import AcrnVm
from kata.hypervisor.binary import Product, find_binary
from kata.hypervisor.driver import Capabilities, Started, ignore_start
from kata.hypervisor.launch import prepare_launch
from kata.hypervisor.spec import VmSpec

_PROGRAM = "acrn-dm"
PRODUCT = Product("acrn-dm", "acrn", "", (3,))
_DEVICE = "/dev/acrn_hsm"
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
        self.path, self.version = find_binary(PRODUCT, settings.path, state_directory)
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

    async def start(self, spec: VmSpec, *, timeout: float = 30.0, started: Started = ignore_start) -> AcrnVm:
        _check_kernel(spec)
        cpus = self.settings.cpus or tuple(range(1, spec.vcpus + 1))
        argv = build_arguments(spec, self.path, self.settings.name, cpus=cpus[: spec.vcpus])
        with prepare_launch(AcrnVm.name, spec, self.settings.console_limit) as launch:
            # The hypervisor's device is root's alone, so the user stays.
            confined = ["setpriv", "--no-new-privs", "--pdeathsig", "KILL", "--", *argv]
            child = launch.start(confined, launch.open_log("acrn-dm.log"), output=launch.vmm_console)
            vm = AcrnVm(launch, child)
        await vm.bring_up(started, timeout=timeout)
        return vm


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
