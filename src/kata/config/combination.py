"""What the values of a configuration mean for each other."""

from collections.abc import Iterator
from typing import NamedTuple

from kata.config.model import (
    DEFAULT_MEMORY_MIB,
    GUEST_OVERHEAD_MIB,
    LEAST_MEMORY_MIB,
    NO_SHARED_FS,
    SCRATCH_ENCRYPTED,
    SCRATCH_ON_DISK,
    Configuration,
)

_LIMITERS = ("clh", "firecracker")
"""Drivers whose VMMs limit what disks and cards move by themselves."""

_CARDS = ("rx_", "tx_")
"""How options of limits begin that the host's kernel keeps, with any driver."""

_CONFIDENTIAL = "clh"
_DAX = "clh"
"""The driver whose VMs can have the image as memory."""


class Finding(NamedTuple):
    """A value that does not go with the rest: an error where there is a `hint`, else something to be told."""

    kind: str
    key: str
    text: str
    hint: str = ""


def list_findings(config: Configuration) -> Iterator[Finding]:
    """Return what is wrong with a configuration whose values are each right."""
    vm = config.hypervisor
    if vm.image and vm.initrd:
        yield Finding("hypervisor", "initrd", "is set, and image is too", "a guest has one of them as its root")
    if vm.default_maxvcpus and vm.default_vcpus > vm.default_maxvcpus:
        yield Finding(
            "hypervisor", "default_vcpus", f"is {vm.default_vcpus}", f"default_maxvcpus is {vm.default_maxvcpus}"
        )
    if 0 < vm.default_memory < LEAST_MEMORY_MIB:
        hint = f"a guest needs {LEAST_MEMORY_MIB} MiB to boot"
        yield Finding("hypervisor", "default_memory", f"is {vm.default_memory}", hint)
    memory = vm.default_memory or DEFAULT_MEMORY_MIB
    if 0 < vm.default_maxmemory < memory:
        hint = f"default_memory is {memory}"
        yield Finding("hypervisor", "default_maxmemory", f"is {vm.default_maxmemory}", hint)
    if vm.overhead_memory < GUEST_OVERHEAD_MIB:
        reason = f"this guest's kernel and agent need {GUEST_OVERHEAD_MIB} MiB, which is what counts"
        yield Finding("hypervisor", "overhead_memory", reason)
    if vm.enable_hugepages and not config.runtime.static_sandbox_resource_mgmt:
        yield Finding(
            "runtime",
            "static_sandbox_resource_mgmt",
            "is false, and enable_hugepages is true",
            "memory that is plugged in is ordinary pages",
        )
    yield from _list_useless(config)
    yield from _list_confidential(config)
    model = config.runtime.internetworking_model
    if vm.tx_rate_limiter_max_rate and model == "none":
        hint = "internetworking_model is none, so whoever connects the taps limits what they send"
        yield Finding("hypervisor", "tx_rate_limiter_max_rate", f"is {vm.tx_rate_limiter_max_rate}", hint)
    if vm.rx_rate_limiter_max_rate and model == "macvtap":
        hint = "internetworking_model is macvtap, which has no queue for what a VM receives; tcfilter has one"
        yield Finding("hypervisor", "rx_rate_limiter_max_rate", f"is {vm.rx_rate_limiter_max_rate}", hint)
    if config.factory.vm_cache_number and not config.factory.enable_template:
        reason = f"is {config.factory.vm_cache_number}, but no VM waits where enable_template is false"
        yield Finding("factory", "vm_cache_number", reason)
    if vm.shared_fs == NO_SHARED_FS and vm.disable_block_device_use:
        yield Finding(
            "hypervisor", "disable_block_device_use", "is true", "with shared_fs none a root is on disks only"
        )
    if config.runtime.emptydir_mode == SCRATCH_ENCRYPTED:
        hint = f"the guest encrypts no disks; {SCRATCH_ON_DISK} is the same in the clear"
        yield Finding("runtime", "emptydir_mode", f"is {SCRATCH_ENCRYPTED}, which cannot be had", hint)
    if vm.enable_annotations:
        from kata.config.annotations import list_unoffered  # noqa: PLC0415 - only where the operator opened some

        yield from (Finding("hypervisor", "enable_annotations", *finding) for finding in list_unoffered(vm))


def _list_useless(config: Configuration) -> Iterator[Finding]:
    """Return what this driver does not have, and a VM can do without."""
    if not config.hypervisor.disable_image_nvdimm and config.driver != _DAX:
        reason = f"is false, but the root image of VMs of {config.driver} is a read-only disk"
        yield Finding("hypervisor", "disable_image_nvdimm", reason)
    if config.driver in _LIMITERS:
        return
    for key, value in config.hypervisor._asdict().items():
        if "_rate_limiter_" in key and not key.startswith(_CARDS) and value:
            reason = f"{config.driver} limits nothing by itself: there are rx_ and tx_rate_limiter_max_rate"
            yield Finding("hypervisor", key, reason)


def _list_confidential(config: Configuration) -> Iterator[Finding]:
    vm = config.hypervisor
    if vm.firmware and not vm.confidential_guest:
        yield Finding("hypervisor", "firmware", "only confidential guests have one: the kernel is started directly")
    if not vm.confidential_guest:
        return
    if config.driver != _CONFIDENTIAL:
        hint = f"{config.driver} has no confidential guests here; Cloud Hypervisor has them, with TDX"
        yield Finding("hypervisor", "confidential_guest", "is true, which cannot be had", hint)
    elif not vm.firmware:
        hint = "set firmware to the TDVF or TD-Shim image that the guest is to start with"
        yield Finding("hypervisor", "confidential_guest", "is true, and firmware is not set", hint)
    elif vm.shared_fs != NO_SHARED_FS:
        hint = 'set shared_fs = "none": virtiofsd would read and write the memory of the guest'
        yield Finding("hypervisor", "confidential_guest", f"is true, and shared_fs is {vm.shared_fs}", hint)
