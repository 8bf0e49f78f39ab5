"""A container's statistics, from the guest's form into the one that containerd expects on this host."""

import os

from kata.protocol.messages import agent, metrics
from kata.protocol.messages.google import Any, pack_message

_CONTROLLERS = "/sys/fs/cgroup/cgroup.controllers"
_MICROSECOND = 1000


def pack_stats(response: agent.StatsContainerResponse) -> Any:
    """Return cgroup v2's form where the host has only that, since the engine chooses its decoder by the host."""
    stats = response.cgroup_stats or agent.CgroupStats()
    if os.path.exists(_CONTROLLERS):
        return pack_message(metrics.TYPE_V2, make_metrics_v2(stats))
    return pack_message(metrics.TYPE_V1, make_metrics_v1(stats))


def make_metrics_v1(stats: agent.CgroupStats) -> metrics.MetricsV1:
    """Translate to the names of cgroup v1. The guest has v2, whose `anon` is v1's `rss`."""
    memory = stats.memory_stats or agent.MemoryStats()
    raw = memory.stats
    return metrics.MetricsV1(
        pids=_make_pids(stats),
        cpu=_make_cpu_v1(stats.cpu_stats or agent.CpuStats()),
        memory=metrics.MemoryStatV1(
            cache=memory.cache,
            rss=raw.get("anon", 0),
            mapped_file=raw.get("file_mapped", 0),
            dirty=raw.get("file_dirty", 0),
            writeback=raw.get("file_writeback", 0),
            pg_fault=raw.get("pgfault", 0),
            pg_maj_fault=raw.get("pgmajfault", 0),
            inactive_anon=raw.get("inactive_anon", 0),
            active_anon=raw.get("active_anon", 0),
            inactive_file=raw.get("inactive_file", 0),
            active_file=raw.get("active_file", 0),
            unevictable=raw.get("unevictable", 0),
            total_inactive_file=raw.get("inactive_file", 0),
            usage=_make_entry(memory.usage),
            swap=_make_entry(memory.swap_usage),
            kernel=_make_entry(memory.kernel_usage),
        ),
    )


def _make_cpu_v1(cpu: agent.CpuStats) -> metrics.CpuStatV1:
    usage = cpu.cpu_usage or agent.CpuUsage()
    throttling = cpu.throttling_data or agent.ThrottlingData()
    return metrics.CpuStatV1(
        usage=metrics.CpuUsageV1(
            total=usage.total_usage,
            kernel=usage.usage_in_kernelmode,
            user=usage.usage_in_usermode,
            per_cpu=list(usage.percpu_usage),
        ),
        throttling=metrics.ThrottleV1(
            periods=throttling.periods,
            throttled_periods=throttling.throttled_periods,
            throttled_time=throttling.throttled_time,
        ),
    )


def _make_entry(data: agent.MemoryData | None) -> metrics.MemoryEntryV1:
    data = data or agent.MemoryData()
    return metrics.MemoryEntryV1(limit=data.limit, usage=data.usage, max=data.max_usage, failcnt=data.failcnt)


def _make_pids(stats: agent.CgroupStats) -> metrics.PidsStat:
    pids = stats.pids_stats or agent.PidsStats()
    return metrics.PidsStat(current=pids.current, limit=pids.limit)


def make_metrics_v2(stats: agent.CgroupStats) -> metrics.MetricsV2:
    """Translate to the names of cgroup v2."""
    memory = stats.memory_stats or agent.MemoryStats()
    usage = memory.usage or agent.MemoryData()
    swap = memory.swap_usage or agent.MemoryData()
    cpu = stats.cpu_stats or agent.CpuStats()
    time = cpu.cpu_usage or agent.CpuUsage()
    throttling = cpu.throttling_data or agent.ThrottlingData()
    known = {field.name for field in metrics.MemoryStatV2.FIELDS.values()}
    stated = {name: value for name, value in memory.stats.items() if name in known}
    stated |= {"usage": usage.usage, "usage_limit": usage.limit, "max_usage": usage.max_usage}
    stated |= {"swap_usage": swap.usage, "swap_limit": swap.limit}
    return metrics.MetricsV2(
        pids=_make_pids(stats),
        cpu=metrics.CpuStatV2(
            usage_usec=time.total_usage // _MICROSECOND,
            user_usec=time.usage_in_usermode // _MICROSECOND,
            system_usec=time.usage_in_kernelmode // _MICROSECOND,
            nr_periods=throttling.periods,
            nr_throttled=throttling.throttled_periods,
            throttled_usec=throttling.throttled_time // _MICROSECOND,
        ),
        memory=metrics.MemoryStatV2(**stated),
    )
