"""Memory that devices of the host reach: the kernel pins all of the guest's, and counts it as locked by the VMM.

Source: vfio_lock_acct in drivers/vfio/vfio_iommu_type1.c; getrlimit(2), RLIMIT_MEMLOCK.
"""

import resource

from kata.errors import HostError, StateError
from kata.hypervisor.spec import VmSpec

_BESIDES_MIB = 256
"""What is mapped for devices beside the guest's memory: their own registers, of which few are larger."""


def count_pinned(spec: VmSpec) -> int:
    """Return the bytes that a VMM of such a VM may lock: all memory that the guest may ever have, and some."""
    return (max(spec.memory_mib, spec.max_memory_mib) + _BESIDES_MIB) << 20


def allow_pinning(pid: int, spec: VmSpec) -> None:
    """Let a VMM that runs pin the guest's memory. Raise StateError for a VM without `host_devices`, HostError."""
    if not spec.host_devices:
        reason = f"the VM of sandbox {spec.id} was started as one that gets no devices of the host"
        raise StateError(reason, hint="they need hot_plug_vfio and the module vfio-pci before the VM is started")
    limit = count_pinned(spec)
    try:
        resource.prlimit(pid, resource.RLIMIT_MEMLOCK, (limit, limit))
    except (OSError, ValueError) as error:
        raise HostError(f"the VMM of sandbox {spec.id} cannot lock memory for a device: {error}") from error
