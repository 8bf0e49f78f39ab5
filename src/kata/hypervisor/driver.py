"""What every hypervisor driver offers. The sandbox asks capabilities, never a driver's name."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from kata.errors import ConfigError

if TYPE_CHECKING:
    from kata.config.model import HypervisorConfig
    from kata.hypervisor.spec import (
        BlockDevice,
        DiskAddress,
        NetDevice,
        PciAddress,
        SharedFs,
        VfioDevice,
        VmSpec,
        VmState,
    )

Channel = Literal["vsock", "hybrid-vsock", "vport"]


class Capabilities(NamedTuple):
    """What a driver can do on this machine. `channels` are ways to talk to the agent, the best first.

    With `ports` what is plugged in takes a hot-plug port each, which the VM has from its start. A VM that is restored
    has its network cards already where there is no `net_hotplug`.
    With `connects_shares` its VMM connects to the daemons of shared file systems by itself, with `opens_taps` it opens
    taps by their names. With `own_user` it runs without the privileges of root, with `vcpu_threads` each vCPU is a
    thread of it. With `template` VMs can be saved before they have a sandbox, with `checkpoint` also while containers
    run, and then go on. With `image_dax` the image can be memory of the guest's.
    """

    channels: tuple[Channel, ...]
    accelerator: str
    fs_share: bool = False
    block_hotplug: bool = False
    scsi: bool = False
    ports: bool = False
    net_hotplug: bool = False
    vfio: bool = False
    multi_queue: bool = False
    pause: bool = False
    balloon: bool = False
    template: bool = False
    checkpoint: bool = False
    vcpu_hotplug: bool = False
    memory_hotplug: bool = False
    connects_shares: bool = False
    image_dax: bool = False
    opens_taps: bool = False
    own_user: bool = True
    vcpu_threads: bool = True


class VmExit(NamedTuple):
    """Why a VM is no more. `returncode` is the VMM's (minus a signal's number); `reason` is a sentence."""

    returncode: int
    reason: str
    console: str
    """The end of what the guest wrote to its console."""
    panicked: bool = False


class Vm(Protocol):
    """A VM that was started. `pid` and `start_ticks` name the VMM's process for whoever must kill it after a crash."""

    pid: int
    start_ticks: int

    async def wait_exit(self) -> VmExit:
        """Wait until the VMM has ended, whoever ended it."""

    async def query_state(self) -> "VmState":
        """Whether the vCPUs run."""

    async def pause(self) -> None:
        """Stop the vCPUs."""

    async def resume(self) -> None:
        """Run the vCPUs."""

    async def save(self, directory: str, *, timeout: float) -> None:
        """Stop the vCPUs and write the whole VM to files of a directory, for `VmSpec.saved`; `resume` lets it go on.

        Raise StateError for a VM that is not savable, HostError, DeadlineError.
        """

    def find_places(self) -> dict[str, int]:
        """Where each device is that was plugged in, by id: see `Plugged`."""

    async def stop(self, *, timeout: float) -> VmExit:
        """End the VMM: politely for `timeout` seconds, then by force; release what it held. May be repeated."""

    async def list_vcpu_threads(self) -> dict[int, int]:
        """Host thread ids by vCPU index."""

    async def plug_block(self, device: "BlockDevice") -> "DiskAddress":
        """Add a disk to the running VM."""

    async def resize_block(self, device_id: str, size: int) -> None:
        """Tell the guest that a disk that was plugged in has grown to `size` bytes."""

    async def plug_net(self, device: "NetDevice") -> "PciAddress":
        """Add a network card to the running VM."""

    async def plug_share(self, device: "SharedFs") -> "PciAddress":
        """Add a shared file system to the running VM."""

    async def plug_vfio(self, device: "VfioDevice") -> "PciAddress":
        """Add a host's PCI device to the running VM."""

    def locate(self, device_id: str) -> "PciAddress":
        """Where the guest finds a device that is in a port: from the start, or plugged in. Raise NotFoundError."""

    async def unplug(self, device_id: str, *, timeout: float = 10.0) -> None:
        """Take out a device that was plugged in, waiting for the guest to let go of it."""

    async def resize_vcpus(self, count: int, *, timeout: float = 10.0) -> None:
        """Plug vCPUs in until there are `count`, or take out those too many that were; the agent brings them online.

        Between those that the VM began with and the spec's `max_vcpus`. Raise DeadlineError for a guest that keeps one.
        """

    async def resize_memory(self, mib: int, *, timeout: float = 10.0) -> None:
        """Let the guest have `mib` of memory, between what the VM began with and the spec's `max_memory_mib`.

        More is there on return; DeadlineError says how much where the guest did not take all. Of what it has too much
        it gives back what it can, later.
        """

    def read_console(self) -> str:
        """The end of what the guest wrote to its console until now."""


Started = Callable[[int], None]
"""Takes the pid of a VMM that may outlive the caller, should that be killed before it has the VM."""


def ignore_start(pid: int) -> None:
    """Be told of a VMM, and do nothing."""


class Hypervisor(Protocol):
    """A driver. `version` is its VMM's, `warning` what the operator should be told before a VM is started."""

    name: str
    path: str
    version: str
    warning: str

    def find_capabilities(self) -> Capabilities:
        """What it can do here."""

    def find_hybrid_socket(self, spec_directory: str, sandbox: str) -> str:
        """Where the VMM of a sandbox listens for the host's side of a `HybridVsock`, "" for a driver without."""

    def identify(self, spec: "VmSpec") -> tuple[str, tuple[str, ...]]:
        """Return a text that is the same for VMs that can go on from each other saved, and the files that are in it."""

    async def start(self, spec: "VmSpec", *, timeout: float, started: Started = ignore_start) -> Vm:
        """Start a VM; nothing is left behind when it fails. `started` is told of the VMM's process at once.

        Raise ConfigError for a file that cannot be opened or a VM that cannot be, HostError when the VMM cannot be run,
        and StartError with phase `hypervisor`, the VMM's last words and the end of the console when it gave up.
        """


# Modules by name, not classes: a driver is imported when it is asked for.
_DRIVERS = {
    "qemu": "kata.hypervisor.qemu.driver",
    "clh": "kata.hypervisor.clh.driver",
    "firecracker": "kata.hypervisor.firecracker.driver",
    "acrn": "kata.hypervisor.acrn.driver",
}


def list_drivers() -> list[str]:
    """Names that `open_hypervisor` knows."""
    return sorted(_DRIVERS)


class DriverModule(Protocol):
    """What a driver's module has."""

    def open_configured(self, config: "HypervisorConfig", state_directory: str | None) -> Hypervisor: ...


def open_hypervisor(name: str, config: "HypervisorConfig", state_directory: str | None) -> Hypervisor:
    """The driver of this name, after a look at this machine, which is kept in the directory (None: nowhere).

    Raise ConfigError for a name that is none's, NotFoundError without the VMM, UnsupportedError where it is too old or
    of no use here.
    """
    if name not in _DRIVERS:
        raise ConfigError(f"no hypervisor is called {name!r}", hint=f"one of: {', '.join(list_drivers())}")
    module: DriverModule = importlib.import_module(_DRIVERS[name])
    return module.open_configured(config, state_directory)
