"""A container's statistics as `events --stats` prints them. Source: runc's types/events.go, as fields of JSON."""

from typing import Any

from kata.protocol.messages import agent as wire


def _describe_memory(memory: wire.MemoryData | None) -> dict[str, int]:
    data = memory or wire.MemoryData()
    return {"limit": data.limit, "usage": data.usage, "max": data.max_usage, "failcnt": data.failcnt}


def _describe_card(card: wire.NetworkStats) -> dict[str, Any]:
    return {
        "Name": card.name,
        "RxBytes": card.rx_bytes,
        "RxPackets": card.rx_packets,
        "RxErrors": card.rx_errors,
        "RxDropped": card.rx_dropped,
        "TxBytes": card.tx_bytes,
        "TxPackets": card.tx_packets,
        "TxErrors": card.tx_errors,
        "TxDropped": card.tx_dropped,
    }


def describe_stats(response: wire.StatsContainerResponse) -> dict[str, Any]:
    """Return what the guest's cgroup of a container holds."""
    stats = response.cgroup_stats or wire.CgroupStats()
    cpu = stats.cpu_stats or wire.CpuStats()
    usage = cpu.cpu_usage or wire.CpuUsage()
    throttling = cpu.throttling_data or wire.ThrottlingData()
    memory = stats.memory_stats or wire.MemoryStats()
    pids = stats.pids_stats or wire.PidsStats()
    return {
        "cpu": {
            "usage": {
                "total": usage.total_usage,
                "percpu": usage.percpu_usage,
                "kernel": usage.usage_in_kernelmode,
                "user": usage.usage_in_usermode,
            },
            "throttling": {
                "periods": throttling.periods,
                "throttledPeriods": throttling.throttled_periods,
                "throttledTime": throttling.throttled_time,
            },
        },
        "memory": {
            "cache": memory.cache,
            "usage": _describe_memory(memory.usage),
            "swap": _describe_memory(memory.swap_usage),
            "kernel": _describe_memory(memory.kernel_usage),
            "raw": memory.stats,
        },
        "pids": {"current": pids.current, "limit": pids.limit},
        "hugetlb": {
            size: {"usage": page.usage, "max": page.max_usage, "failcnt": page.failcnt}
            for size, page in stats.hugetlb_stats.items()
        },
        "network_interfaces": [_describe_card(card) for card in response.network_stats],
    }
