"""How big a VM must be for the pod, or the container, that it is made for."""

import json
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any, NamedTuple

from kata.config.model import DEFAULT_MEMORY_MIB, GUEST_OVERHEAD_MIB, LEAST_MEMORY_MIB, Configuration, HypervisorConfig
from kata.errors import ConfigError, UsageError
from kata.resources.host import HostSize

_MEMORY_STEP_MIB = 2
LEAST_LIMIT_MIB = 1
"""What a container needs: at 384 KiB the guest's kernel reclaims without end (measured, 6.12), and nothing fails."""

_PERIOD = 100_000
"""Microseconds, the kernel's own. Source: Documentation/scheduler/sched-bwc.rst."""

_INT64 = (-(1 << 63), (1 << 63) - 1)
_UINT64 = (0, (1 << 64) - 1)
_MOST_DIGITS = 19

_CONTAINERD = "io.kubernetes.cri.sandbox-"
_CRIO = ("io.kubernetes.cri-o.PodLinuxResources", "pod-linux-resources.crio.io")


class VmSize(NamedTuple):
    """What a VM begins with, and how far it can grow; 0 where it cannot."""

    vcpus: int
    memory_mib: int
    most_vcpus: int = 0
    most_memory_mib: int = 0


class Limits(NamedTuple):
    """A pod's or a container's limits, each 0 where there is none: CPU time in processors, memory in bytes.

    `huge` are the bytes of huge pages, of all sizes, which the guest sets aside beside that memory.
    """

    cpus: float = 0.0
    memory: int = 0
    huge: int = 0


def size_vm(spec: Mapping[str, Any], config: HypervisorConfig, host: HostSize) -> VmSize:
    """Return the VM for the OCI spec of a sandbox's first container: as big as the pod's limits, each on its own.

    Those are what the CRI says of the pod, else the container's own; without a limit the configured default counts. CPU
    time counts in whole vCPUs, rounded up, as many as the host has CPUs at most. A memory limit that the host's memory
    cannot reach limits nothing: cgroups write their "unlimited" as such a number. Raise UsageError for a limit that is
    no 64-bit integer, and ConfigError for a size beyond what there is.
    """
    limits = find_limits(spec)
    most = _find_most_vcpus(config, host)
    vcpus = ceil(limits.cpus + config.overhead_vcpus) if limits.cpus else _find_default_vcpus(config, most)
    return VmSize(max(1, min(vcpus, most)), _size_memory(limits, config, host))


def size_sandbox(spec: Mapping[str, Any], config: Configuration, host: HostSize) -> VmSize:
    """Return the VM of a sandbox as `size_vm` does, with room to grow where its containers may make it do so."""
    size = size_vm(spec, config.hypervisor, host)
    return size if config.runtime.static_sandbox_resource_mgmt else leave_room(size, config.hypervisor, host)


def leave_room(size: VmSize, config: HypervisorConfig, host: HostSize) -> VmSize:
    """Return a VM that begins as `size` and can grow as far as the operator, and the host, let any."""
    growth = max(0, _find_most_memory(config, host) - size.memory_mib)
    return size._replace(
        most_vcpus=_find_most_vcpus(config, host),
        most_memory_mib=size.memory_mib + growth // _MEMORY_STEP_MIB * _MEMORY_STEP_MIB,
    )


def fit_containers(containers: Iterable[Limits], size: VmSize, config: HypervisorConfig, host: HostSize) -> VmSize:
    """Return a VM of `size` as big as its containers need together, and never smaller than it began.

    Those without a limit count together as much as a VM without one. Raise ConfigError where there is less memory than
    that; of processors there are as many as there may be.
    """
    known = list(containers)
    vcpus = ceil(sum(one.cpus for one in known) + config.overhead_vcpus)
    if not all(one.cpus for one in known):
        vcpus += _find_default_vcpus(config, size.most_vcpus)
    limits = [one.memory for one in known if _is_memory_limit(one.memory, host)]
    memory = sum(map(_count_mib, limits))
    memory += _find_overhead(config) if len(limits) == len(known) else config.default_memory or DEFAULT_MEMORY_MIB
    memory = max(size.memory_mib, _round_memory(memory + sum(_count_mib(one.huge) for one in known)))
    if memory > size.most_memory_mib:
        raise ConfigError(
            f"the containers need a VM of {memory} MiB",
            hint=f"the most that this one can have is {size.most_memory_mib} MiB",
        )
    return size._replace(vcpus=max(size.vcpus, min(vcpus, size.most_vcpus)), memory_mib=memory)


def check_memory_limit(container: str, resources: Mapping[str, Any]) -> None:
    """Raise UsageError for a memory limit in which a container cannot run.

    `resources` is OCI's `linux.resources`. Source of the field: config-linux.md of the OCI runtime specification.
    """
    limit = _check_number(_find_object(resources, "memory").get("limit"), "memory.limit", _INT64)
    if 0 < limit < LEAST_LIMIT_MIB << 20:
        raise UsageError(
            f"container {container} cannot run with a memory limit of {limit} bytes",
            hint=f"the least is {LEAST_LIMIT_MIB} MiB ({LEAST_LIMIT_MIB << 20} bytes)",
        )


def check_huge_pages(container: str, limits: Limits, memory_mib: int) -> None:
    """Raise UsageError for more huge pages than a VM that does not grow has memory for, beside what it needs itself."""
    huge = _count_mib(limits.huge)
    least = LEAST_MEMORY_MIB + huge
    if huge and least > memory_mib:
        raise UsageError(
            f"container {container} cannot have {huge} MiB of huge pages in a VM of {memory_mib} MiB",
            hint=f"the VM needs at least {least} MiB: raise the pod's memory limit, or default_memory where it has"
            " none, or set static_sandbox_resource_mgmt to false",
        )


def find_resources(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `linux.resources` of an OCI spec, empty where there is none. Raise UsageError for what is no object."""
    return _find_object(_find_object(spec, "linux"), "resources")


def find_cpus(resources: Mapping[str, Any]) -> str:
    """Return the processors of OCI's `linux.resources` as the list that it is, empty where there is none."""
    found = _find_object(resources, "cpu").get("cpus") or ""
    if not isinstance(found, str):
        raise UsageError(f"cpu.cpus is {found!r}, no list of processors", hint="such as 0-2,7")
    return found


def _find_most_vcpus(config: HypervisorConfig, host: HostSize) -> int:
    return min(config.default_maxvcpus or host.cpus, host.cpus)


def _find_default_vcpus(config: HypervisorConfig, most: int) -> int:
    return most if config.default_vcpus < 0 else config.default_vcpus or 1


def _find_most_memory(config: HypervisorConfig, host: HostSize) -> int:
    return config.default_maxmemory or max(host.memory_mib, DEFAULT_MEMORY_MIB)


def _find_overhead(config: HypervisorConfig) -> int:
    return max(config.overhead_memory, GUEST_OVERHEAD_MIB)


def _is_memory_limit(limit: int, host: HostSize) -> bool:
    return 0 < limit < host.memory_mib << 20


def _count_mib(size: int) -> int:
    return -(-size // (1 << 20))


def _round_memory(mib: int) -> int:
    return -(-mib // _MEMORY_STEP_MIB) * _MEMORY_STEP_MIB


def _size_memory(limits: Limits, config: HypervisorConfig, host: HostSize) -> int:
    huge = _count_mib(limits.huge)
    if _is_memory_limit(limits.memory, host):
        asked = _count_mib(limits.memory) + huge
        wanted = max(asked + _find_overhead(config), LEAST_MEMORY_MIB + huge)
    else:
        asked = wanted = (config.default_memory or DEFAULT_MEMORY_MIB) + huge
    most = _find_most_memory(config, host)
    if asked > most:
        reason = "default_maxmemory" if config.default_maxmemory else "the host's memory"
        raise ConfigError(f"a VM for {asked} MiB cannot be had", hint=f"{reason} is {most} MiB")
    return _round_memory(wanted)


def find_limits(spec: Mapping[str, Any]) -> Limits:
    """Return the limits of the pod as containerd or CRI-O write them into annotations, else those of the container.

    Sources: containerd internal/cri/annotations, CRI-O pkg/annotations/v2, Kubernetes' CRI (LinuxContainerResources).
    Raise UsageError for what is no number.
    """
    annotations = _find_object(spec, "annotations")
    for read in (_read_containerd, _read_crio):
        found = read(annotations)
        if found is not None and any(found):
            return found
    return read_limits(find_resources(spec))


def read_limits(resources: Mapping[str, Any]) -> Limits:
    """Return a container's limits of OCI's `linux.resources`. Raise UsageError for what is no number."""
    cpu, memory = _find_object(resources, "cpu"), _find_object(resources, "memory")
    return _make_limits(
        _check_number(cpu.get("quota"), "linux.resources.cpu.quota", _INT64),
        _check_number(cpu.get("period"), "linux.resources.cpu.period", _UINT64),
        _check_number(memory.get("limit"), "linux.resources.memory.limit", _INT64),
        _sum_huge_pages(resources.get("hugepageLimits"), "linux.resources.hugepageLimits"),
    )


def _sum_huge_pages(found: Any, name: str) -> int:
    """Return the bytes of a list of limits, one for each size of pages, which is the agent's to understand."""
    if found is not None and (not isinstance(found, list) or not all(isinstance(one, dict) for one in found)):
        raise UsageError(f"{name} is no list of objects")
    return sum(_check_number(one.get("limit"), f"{name}: limit", _UINT64) for one in found or [])


def merge_resources(before: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """Return the processors and memory of OCI's `linux.resources` after an update, which says only what changes.

    Huge pages stay what they were: they were set aside with the container.
    """
    merged: dict[str, Any] = {
        name: {**_find_object(before, name), **{k: v for k, v in _find_object(update, name).items() if v is not None}}
        for name in ("cpu", "memory")
    }
    return {**merged, "hugepageLimits": before.get("hugepageLimits")}


def _read_containerd(annotations: Mapping[str, Any]) -> Limits | None:
    names = [f"{_CONTAINERD}{name}" for name in ("cpu-quota", "cpu-period", "memory")]
    if not any(name in annotations for name in names):
        return None
    return _make_limits(*(_parse_number(annotations.get(name), name) for name in names))


def _read_crio(annotations: Mapping[str, Any]) -> Limits | None:
    key = next((key for key in _CRIO if key in annotations), None)
    if key is None:
        return None
    try:
        document = json.loads(annotations[key])
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"annotation {key} is no JSON: {error}") from error
    if document is None:  # what CRI-O writes for a pod that the kubelet, or crictl, told no limits of
        return None
    if not isinstance(document, dict):
        raise UsageError(f"annotation {key} is no object")
    names = ("cpu_quota", "cpu_period", "memory_limit_in_bytes")
    quota, period, memory = (_check_number(document.get(name), f"annotation {key}: {name}", _INT64) for name in names)
    huge = _sum_huge_pages(document.get("hugepage_limits"), f"annotation {key}: hugepage_limits")
    return _make_limits(quota, period, memory, huge)


def _make_limits(quota: int, period: int, memory: int, huge: int = 0) -> Limits:
    return Limits(quota / (period if period > 0 else _PERIOD) if quota > 0 else 0.0, max(memory, 0), huge)


def _parse_number(text: Any, name: str) -> int:
    """Read an annotation as Go's strconv writes an int64."""
    if text is None:
        return 0
    digits = text.removeprefix("-") if isinstance(text, str) else ""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS):
        raise UsageError(f"annotation {name} is {text!r}, no integer")
    return _check_number(int(text), f"annotation {name}", _INT64)


def _find_object(owner: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = owner.get(key)
    if found is not None and not isinstance(found, dict):
        raise UsageError(f"config.json: {key} is no object")
    return found or {}


def _check_number(found: Any, name: str, bounds: tuple[int, int]) -> int:
    if found is None:
        return 0
    least, most = bounds
    if not isinstance(found, int) or isinstance(found, bool) or not least <= found <= most:
        raise UsageError(f"{name} is {found!r}, no integer from {least} to {most}")
    return found
