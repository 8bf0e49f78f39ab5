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
    model = config.runtime.internetworking_model
    if vm.tx_rate_limiter_max_rate and model == "none":
        hint = "internetworking_model is none, so whoever connects the taps limits what they send"
        yield Finding("hypervisor", "tx_rate_limiter_max_rate", f"is {vm.tx_rate_limiter_max_rate}", hint)
    if vm.rx_rate_limiter_max_rate and model == "macvtap":
        hint = "internetworking_model is macvtap, which has no queue for what a VM receives; tcfilter has one"
        yield Finding("hypervisor", "rx_rate_limiter_max_rate", f"is {vm.rx_rate_limiter_max_rate}", hint)
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
