"""A container's statistics, from the guest's form into the one that containerd expects on this host."""

import os
from collections.abc import Sequence

from kata.protocol.messages import agent, metrics
from kata.protocol.messages.google import Any, pack_message
from kata.protocol.protobuf import Message

_CONTROLLERS = "/sys/fs/cgroup/cgroup.controllers"
_MICROSECOND = 1000
_UNLIMITED = (1 << 64) - 1

_MEMORY_V1 = {
    "cache": "file",
    "rss": "anon",
    "rss_huge": "anon_thp",
    "mapped_file": "file_mapped",
    "dirty": "file_dirty",
    "writeback": "file_writeback",
    "pg_fault": "pgfault",
    "pg_maj_fault": "pgmajfault",
    "inactive_anon": "inactive_anon",
    "active_anon": "active_anon",
    "inactive_file": "inactive_file",
    "active_file": "active_file",
    "unevictable": "unevictable",
}
"""Names of cgroup v1's memory.stat, and those of v2, which the guest has."""

_MEMORY_V2 = {field.name for field in metrics.MemoryStatV2.FIELDS.values()}
_MEMORY_EVENTS = [field.name for field in metrics.MemoryEventsV2.FIELDS.values()]
_NETWORK = [field.name for field in metrics.NetworkStat.FIELDS.values()]
_IO_V2 = {
    ("io_service_bytes_recursive", "read"): "rbytes",
    ("io_service_bytes_recursive", "write"): "wbytes",
    ("io_serviced_recursive", "read"): "rios",
    ("io_serviced_recursive", "write"): "wios",
}


def pack_stats(response: agent.StatsContainerResponse) -> Any:
    """Return cgroup v2's form where the host has only that, since the engine chooses its decoder by the host."""
    if os.path.exists(_CONTROLLERS):
        return pack_message(metrics.TYPE_V2, make_metrics_v2(response))
    return pack_message(metrics.TYPE_V1, make_metrics_v1(response))


def pack_sum(responses: Sequence[agent.StatsContainerResponse]) -> Any:
    """Return the statistics of several containers as if they were one; the network is the same for all."""
    total = agent.StatsContainerResponse(network_stats=responses[0].network_stats if responses else [])
    total.cgroup_stats = agent.CgroupStats()
    for response in responses:
        if response.cgroup_stats is not None:
            add_numbers(total.cgroup_stats, response.cgroup_stats)
    return pack_stats(total)


def add_numbers(total: Message, other: Message) -> None:
    """Add each number of a message to the same number of `total`, through all depths; lists are left out."""
    for field in other.FIELDS.values():
        value = getattr(other, field.name)
        known = getattr(total, field.name)
        if isinstance(value, Message):
            if known is None:
                known = type(value)()
                setattr(total, field.name, known)
            add_numbers(known, value)
        elif isinstance(value, dict):
            for key, number in value.items():
                if isinstance(number, int):
                    known[key] = known.get(key, 0) + number
        elif isinstance(value, int) and not isinstance(value, bool):
            setattr(total, field.name, known + value)


def _make_network(response: agent.StatsContainerResponse) -> list[metrics.NetworkStat]:
    return [metrics.NetworkStat(**{name: getattr(card, name) for name in _NETWORK}) for card in response.network_stats]


def make_metrics_v1(response: agent.StatsContainerResponse) -> metrics.MetricsV1:
    """Translate to the names of cgroup v1."""
    stats = response.cgroup_stats or agent.CgroupStats()
    pids = stats.pids_stats or agent.PidsStats()
    memory = stats.memory_stats or agent.MemoryStats()
    return metrics.MetricsV1(
        hugetlb=[
            metrics.HugetlbStatV1(usage=page.usage, max=page.max_usage, failcnt=page.failcnt, pagesize=size)
            for size, page in stats.hugetlb_stats.items()
        ],
        pids=metrics.PidsStat(current=pids.current, limit=pids.limit),
        cpu=_make_cpu_v1(stats.cpu_stats or agent.CpuStats()),
        memory=_make_memory_v1(memory),
        blkio=_make_blkio(stats.blkio_stats or agent.BlkioStats()),
        network=_make_network(response),
        memory_oom_control=metrics.MemoryOomControlV1(oom_kill=memory.stats.get("oom_kill", 0)),
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


def _make_memory_v1(memory: agent.MemoryStats) -> metrics.MemoryStatV1:
    """In v1 what is called swap is memory and swap together (memory.memsw), and so is its limit."""
    usage, swap = memory.usage or agent.MemoryData(), memory.swap_usage or agent.MemoryData()
    both = metrics.MemoryEntryV1(
        limit=min(usage.limit + swap.limit, _UNLIMITED),
        usage=usage.usage + swap.usage,
        max=usage.max_usage + swap.max_usage,
        failcnt=swap.failcnt,
    )
    stated = {name: memory.stats.get(source, 0) for name, source in _MEMORY_V1.items()}
    stated |= {f"total_{name}": value for name, value in stated.items()}
    return metrics.MemoryStatV1(
        **stated,
        hierarchical_memory_limit=usage.limit,
        hierarchical_swap_limit=both.limit,
        usage=_make_entry(usage),
        swap=both,
        kernel=_make_entry(memory.kernel_usage or agent.MemoryData()),
        kernel_tcp=metrics.MemoryEntryV1(),  # nothing counts it in the guest, but CRI-O crashes without it
    )


def _make_entry(data: agent.MemoryData) -> metrics.MemoryEntryV1:
    return metrics.MemoryEntryV1(limit=data.limit, usage=data.usage, max=data.max_usage, failcnt=data.failcnt)


def _make_blkio(blkio: agent.BlkioStats) -> metrics.BlkioStatV1:
    def translate(entries: list[agent.BlkioStatsEntry]) -> list[metrics.BlkioEntryV1]:
        return [
            metrics.BlkioEntryV1(op=entry.op.capitalize(), major=entry.major, minor=entry.minor, value=entry.value)
            for entry in entries
        ]

    return metrics.BlkioStatV1(
        io_service_bytes_recursive=translate(blkio.io_service_bytes_recursive),
        io_serviced_recursive=translate(blkio.io_serviced_recursive),
    )


def make_metrics_v2(response: agent.StatsContainerResponse) -> metrics.MetricsV2:
    """Translate to the names of cgroup v2."""
    stats = response.cgroup_stats or agent.CgroupStats()
    pids = stats.pids_stats or agent.PidsStats()
    memory = stats.memory_stats or agent.MemoryStats()
    return metrics.MetricsV2(
        pids=metrics.PidsStat(current=pids.current, limit=pids.limit or _UNLIMITED),  # v2 has `max`, v1 has 0
        cpu=_make_cpu_v2(stats.cpu_stats or agent.CpuStats()),
        memory=_make_memory_v2(memory),
        memory_events=metrics.MemoryEventsV2(**{name: memory.stats.get(name, 0) for name in _MEMORY_EVENTS}),
        io=_make_io(stats.blkio_stats or agent.BlkioStats()),
        hugetlb=[
            metrics.HugetlbStatV2(current=page.usage, max=page.max_usage, failcnt=page.failcnt, pagesize=size)
            for size, page in stats.hugetlb_stats.items()
        ],
        network=_make_network(response),
    )


def _make_cpu_v2(cpu: agent.CpuStats) -> metrics.CpuStatV2:
    usage = cpu.cpu_usage or agent.CpuUsage()
    throttling = cpu.throttling_data or agent.ThrottlingData()
    return metrics.CpuStatV2(
        usage_usec=usage.total_usage // _MICROSECOND,
        user_usec=usage.usage_in_usermode // _MICROSECOND,
        system_usec=usage.usage_in_kernelmode // _MICROSECOND,
        nr_periods=throttling.periods,
        nr_throttled=throttling.throttled_periods,
        throttled_usec=throttling.throttled_time // _MICROSECOND,
    )


def _make_memory_v2(memory: agent.MemoryStats) -> metrics.MemoryStatV2:
    usage, swap = memory.usage or agent.MemoryData(), memory.swap_usage or agent.MemoryData()
    stated = {name: value for name, value in memory.stats.items() if name in _MEMORY_V2}
    stated |= {"usage": usage.usage, "usage_limit": usage.limit, "max_usage": usage.max_usage}
    stated |= {"swap_usage": swap.usage, "swap_limit": swap.limit, "swap_max_usage": swap.max_usage}
    return metrics.MemoryStatV2(**stated)


def _make_io(blkio: agent.BlkioStats) -> metrics.IoStatV2:
    devices: dict[tuple[int, int], metrics.IoEntryV2] = {}
    for (table, op), name in _IO_V2.items():
        for entry in getattr(blkio, table):
            if entry.op == op:
                place = (entry.major, entry.minor)
                device = devices.setdefault(place, metrics.IoEntryV2(major=entry.major, minor=entry.minor))
                setattr(device, name, entry.value)
    return metrics.IoStatV2(usage=list(devices.values()))
