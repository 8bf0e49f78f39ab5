"""What keeps a VM from being saved, or from being a copy of one that was."""

from collections.abc import Sequence

from kata.config.model import NO_PORT, Configuration
from kata.resources.size import VmSize
from kata.sandbox.site import Host


def find_obstacle(config: Configuration, size: VmSize, host: Host) -> str:
    """Return why VMs of this configuration and size cannot be copies of a template, or an empty string."""
    obstacles = (
        (not config.factory.enable_template, "enable_template is off"),
        (not host.capabilities.template, f"{host.hypervisor.name} has no templates"),
    )
    return _find_true(obstacles) or _find_saving_obstacle(config, size)


def find_checkpoint_obstacle(config: Configuration, size: VmSize, host: Host) -> str:
    """Return why VMs of this configuration and size cannot be saved while they run, or an empty string."""
    if not host.capabilities.checkpoint:
        return f"VMs of {host.hypervisor.name} are not saved while containers run"
    if host.channel == "vsock":
        return "the guest channel is vsock"
    return _find_saving_obstacle(config, size)


def _find_saving_obstacle(config: Configuration, size: VmSize) -> str:
    return _find_true(
        (
            (config.hypervisor.enable_hugepages, "its memory is of huge pages"),
            (config.hypervisor.confidential_guest, "nobody can save a confidential guest"),
            (bool(size.most_memory_mib or size.most_vcpus), "it is to grow and shrink with its containers"),
            (has_iommu(config), "it has an IOMMU for devices of the host"),
        )
    )


def _find_true(obstacles: Sequence[tuple[bool, str]]) -> str:
    return next((reason for is_so, reason in obstacles if is_so), "")


def has_iommu(config: Configuration) -> bool:
    """Say whether a guest's processes are to have devices of the host by VFIO."""
    return config.runtime.vfio_mode == "vfio" and config.hypervisor.hot_plug_vfio != NO_PORT
