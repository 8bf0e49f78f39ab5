"""How big a VM must be for the container that it is made for."""

from dataclasses import dataclass
from typing import Any

from kata.config.model import HypervisorConfig
from kata.errors import UsageError
from kata.resources.host import HostSize

GUEST_OVERHEAD_MIB = 96
"""Memory of the guest's kernel and agent, on top of a container's limit, in MiB."""

MINIMUM_MIB = 128
_MEMORY_STEP_MIB = 2
_PERIOD = 100_000
"""Microseconds, the kernel's own. Source: Documentation/scheduler/sched-bwc.rst."""

_INT64 = (-(1 << 63), (1 << 63) - 1)
_UINT64 = (0, (1 << 64) - 1)


@dataclass(frozen=True, slots=True)
class VmSize:
    vcpus: int
    memory_mib: int


def size_vm(spec: dict[str, Any], config: HypervisorConfig, host: HostSize) -> VmSize:
    """Return the VM for an OCI spec: as big as its limits, each on its own, else the configured default.

    A CPU quota counts in whole vCPUs, rounded up, as many as the host has CPUs at most. A memory limit that the host's
    memory cannot reach limits nothing: cgroups write their "unlimited" as such a number. Raise UsageError for a limit
    that is no 64-bit integer.
    """
    resources = _find_object(_find_object(spec, "linux"), "resources")
    cpu, memory = _find_object(resources, "cpu"), _find_object(resources, "memory")
    quota = _find_number(cpu, "cpu.quota", _INT64)
    period = _find_number(cpu, "cpu.period", _UINT64)
    limit = _find_number(memory, "memory.limit", _INT64)
    vcpus = min(-(-quota // (period or _PERIOD)), host.cpus) if quota > 0 else config.default_vcpus
    limited = 0 < limit < host.memory_mib << 20
    memory_mib = -(-limit // (1 << 20)) + GUEST_OVERHEAD_MIB if limited else config.default_memory
    memory_mib = -(-max(memory_mib, MINIMUM_MIB) // _MEMORY_STEP_MIB) * _MEMORY_STEP_MIB
    return VmSize(max(1, vcpus), memory_mib)


def _find_object(owner: dict[str, Any], key: str) -> dict[str, Any]:
    found = owner.get(key)
    if found is not None and not isinstance(found, dict):
        raise UsageError(f"config.json: {key} is no object")
    return found or {}


def _find_number(owner: dict[str, Any], name: str, bounds: tuple[int, int]) -> int:
    found = owner.get(name.partition(".")[2])
    if found is None:
        return 0
    least, most = bounds
    if not isinstance(found, int) or isinstance(found, bool) or not least <= found <= most:
        raise UsageError(f"config.json: linux.resources.{name} is {found!r}, no integer from {least} to {most}")
    return found
