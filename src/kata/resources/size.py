"""How big a VM must be for the container that it is made for."""

from dataclasses import dataclass
from typing import Any

from kata.config.model import HypervisorConfig
from kata.errors import UsageError

GUEST_OVERHEAD_MIB = 96
"""Memory of the guest's kernel and agent, on top of a container's limit, in MiB."""

MINIMUM_MIB = 128
_MEMORY_STEP_MIB = 2


@dataclass(frozen=True, slots=True)
class VmSize:
    vcpus: int
    memory_mib: int


def size_vm(spec: dict[str, Any], config: HypervisorConfig) -> VmSize:
    """Return the VM for an OCI spec: as big as its limits, each on its own, else the configured default.

    A CPU quota counts in whole vCPUs, rounded up. Raise UsageError for a limit that is no number.
    """
    resources = (spec.get("linux") or {}).get("resources") or {}
    cpu, memory = resources.get("cpu") or {}, resources.get("memory") or {}
    try:
        quota, period, limit = (int(x or 0) for x in (cpu.get("quota"), cpu.get("period"), memory.get("limit")))
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"config.json: linux.resources has a limit that is no number: {error}") from error
    vcpus = -(-quota // (period or 100_000)) if quota > 0 else config.default_vcpus
    memory_mib = -(-limit // (1 << 20)) + GUEST_OVERHEAD_MIB if limit > 0 else config.default_memory
    memory_mib = -(-max(memory_mib, MINIMUM_MIB) // _MEMORY_STEP_MIB) * _MEMORY_STEP_MIB
    return VmSize(max(1, vcpus), memory_mib)
