"""Statistics of a container as containerd takes them, in the form of cgroup v1 and of v2.

Names and numbers are those of `cgroup1/stats/metrics.proto` and `cgroup2/stats/metrics.proto` of containerd's cgroups.
"""

from __future__ import annotations

from kata.protocol.protobuf import Message, message, repeated, string, uint64

TYPE_V1 = "io.containerd.cgroups.v1.Metrics"
TYPE_V2 = "io.containerd.cgroups.v2.Metrics"


class PidsStat(Message):
    """The same in both forms."""

    current: int = uint64(1)
    limit: int = uint64(2)


class HugetlbStatV1(Message):
    """In bytes, but for the count of failures; `pagesize` is such as 2MB."""

    usage: int = uint64(1)
    max: int = uint64(2)
    failcnt: int = uint64(3)
    pagesize: str = string(4)


class CpuUsageV1(Message):
    """In nanoseconds."""

    total: int = uint64(1)
    kernel: int = uint64(2)
    user: int = uint64(3)
    per_cpu: list[int] = repeated(4, "uint64")


class ThrottleV1(Message):
    """The time is in nanoseconds."""

    periods: int = uint64(1)
    throttled_periods: int = uint64(2)
    throttled_time: int = uint64(3)


class CpuStatV1(Message):
    usage: CpuUsageV1 | None = message(1, CpuUsageV1)
    throttling: ThrottleV1 | None = message(2, ThrottleV1)


class MemoryEntryV1(Message):
    limit: int = uint64(1)
    usage: int = uint64(2)
    max: int = uint64(3)
    failcnt: int = uint64(4)


class MemoryStatV1(Message):
    """In bytes, but for the counts of page faults. `total_…` is with the cgroups below, which v2 always counts."""

    cache: int = uint64(1)
    rss: int = uint64(2)
    rss_huge: int = uint64(3)
    mapped_file: int = uint64(4)
    dirty: int = uint64(5)
    writeback: int = uint64(6)
    pg_fault: int = uint64(9)
    pg_maj_fault: int = uint64(10)
    inactive_anon: int = uint64(11)
    active_anon: int = uint64(12)
    inactive_file: int = uint64(13)
    active_file: int = uint64(14)
    unevictable: int = uint64(15)
    hierarchical_memory_limit: int = uint64(16)
    hierarchical_swap_limit: int = uint64(17)
    total_cache: int = uint64(18)
    total_rss: int = uint64(19)
    total_rss_huge: int = uint64(20)
    total_mapped_file: int = uint64(21)
    total_dirty: int = uint64(22)
    total_writeback: int = uint64(23)
    total_pg_fault: int = uint64(26)
    total_pg_maj_fault: int = uint64(27)
    total_inactive_anon: int = uint64(28)
    total_active_anon: int = uint64(29)
    total_inactive_file: int = uint64(30)
    total_active_file: int = uint64(31)
    total_unevictable: int = uint64(32)
    usage: MemoryEntryV1 | None = message(33, MemoryEntryV1)
    swap: MemoryEntryV1 | None = message(34, MemoryEntryV1)
    kernel: MemoryEntryV1 | None = message(35, MemoryEntryV1)
    kernel_tcp: MemoryEntryV1 | None = message(36, MemoryEntryV1)


class BlkioEntryV1(Message):
    """`op` is Read, Write or Discard."""

    op: str = string(1)
    device: str = string(2)
    major: int = uint64(3)
    minor: int = uint64(4)
    value: int = uint64(5)


class BlkioStatV1(Message):
    io_service_bytes_recursive: list[BlkioEntryV1] = repeated(1, BlkioEntryV1)
    io_serviced_recursive: list[BlkioEntryV1] = repeated(2, BlkioEntryV1)


class NetworkStat(Message):
    """One interface. The same in both forms."""

    name: str = string(1)
    rx_bytes: int = uint64(2)
    rx_packets: int = uint64(3)
    rx_errors: int = uint64(4)
    rx_dropped: int = uint64(5)
    tx_bytes: int = uint64(6)
    tx_packets: int = uint64(7)
    tx_errors: int = uint64(8)
    tx_dropped: int = uint64(9)


class MemoryOomControlV1(Message):
    oom_kill: int = uint64(3)


class MetricsV1(Message):
    hugetlb: list[HugetlbStatV1] = repeated(1, HugetlbStatV1)
    pids: PidsStat | None = message(2, PidsStat)
    cpu: CpuStatV1 | None = message(3, CpuStatV1)
    memory: MemoryStatV1 | None = message(4, MemoryStatV1)
    blkio: BlkioStatV1 | None = message(5, BlkioStatV1)
    network: list[NetworkStat] = repeated(7, NetworkStat)
    memory_oom_control: MemoryOomControlV1 | None = message(9, MemoryOomControlV1)


class CpuStatV2(Message):
    """In microseconds."""

    usage_usec: int = uint64(1)
    user_usec: int = uint64(2)
    system_usec: int = uint64(3)
    nr_periods: int = uint64(4)
    nr_throttled: int = uint64(5)
    throttled_usec: int = uint64(6)


class MemoryStatV2(Message):
    """The names of memory.stat, in bytes or counts, and the limits and usages that have files of their own."""

    anon: int = uint64(1)
    file: int = uint64(2)
    kernel_stack: int = uint64(3)
    slab: int = uint64(4)
    sock: int = uint64(5)
    shmem: int = uint64(6)
    file_mapped: int = uint64(7)
    file_dirty: int = uint64(8)
    file_writeback: int = uint64(9)
    anon_thp: int = uint64(10)
    inactive_anon: int = uint64(11)
    active_anon: int = uint64(12)
    inactive_file: int = uint64(13)
    active_file: int = uint64(14)
    unevictable: int = uint64(15)
    slab_reclaimable: int = uint64(16)
    slab_unreclaimable: int = uint64(17)
    pgfault: int = uint64(18)
    pgmajfault: int = uint64(19)
    workingset_nodereclaim: int = uint64(22)
    pgrefill: int = uint64(23)
    pgscan: int = uint64(24)
    pgsteal: int = uint64(25)
    pgactivate: int = uint64(26)
    pgdeactivate: int = uint64(27)
    pglazyfree: int = uint64(28)
    pglazyfreed: int = uint64(29)
    thp_fault_alloc: int = uint64(30)
    thp_collapse_alloc: int = uint64(31)
    usage: int = uint64(32)
    usage_limit: int = uint64(33)
    swap_usage: int = uint64(34)
    swap_limit: int = uint64(35)
    max_usage: int = uint64(36)
    swap_max_usage: int = uint64(37)


class IoEntryV2(Message):
    """One device: bytes and operations."""

    major: int = uint64(1)
    minor: int = uint64(2)
    rbytes: int = uint64(3)
    wbytes: int = uint64(4)
    rios: int = uint64(5)
    wios: int = uint64(6)


class IoStatV2(Message):
    usage: list[IoEntryV2] = repeated(1, IoEntryV2)


class HugetlbStatV2(Message):
    """In bytes, but for the count of failures; `pagesize` is such as 2MB."""

    current: int = uint64(1)
    max: int = uint64(2)
    pagesize: str = string(3)
    failcnt: int = uint64(4)


class MemoryEventsV2(Message):
    low: int = uint64(1)
    high: int = uint64(2)
    max: int = uint64(3)
    oom: int = uint64(4)
    oom_kill: int = uint64(5)
    oom_group_kill: int = uint64(6)


class MetricsV2(Message):
    pids: PidsStat | None = message(1, PidsStat)
    cpu: CpuStatV2 | None = message(2, CpuStatV2)
    memory: MemoryStatV2 | None = message(4, MemoryStatV2)
    io: IoStatV2 | None = message(6, IoStatV2)
    hugetlb: list[HugetlbStatV2] = repeated(7, HugetlbStatV2)
    memory_events: MemoryEventsV2 | None = message(8, MemoryEventsV2)
    network: list[NetworkStat] = repeated(9, NetworkStat)
