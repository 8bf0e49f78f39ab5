"""Statistics of a container as containerd takes them, in the form of cgroup v1 and of v2.

Names and numbers are those of `cgroup1/stats/metrics.proto` and `cgroup2/stats/metrics.proto` of containerd's cgroups.
"""

from __future__ import annotations

from kata.protocol.protobuf import Message, message, repeated, uint64

TYPE_V1 = "io.containerd.cgroups.v1.Metrics"
TYPE_V2 = "io.containerd.cgroups.v2.Metrics"


class PidsStat(Message):
    """The same in both forms."""

    current: int = uint64(1)
    limit: int = uint64(2)


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
    """In bytes, but for the two counts of page faults."""

    cache: int = uint64(1)
    rss: int = uint64(2)
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
    total_inactive_file: int = uint64(29)
    usage: MemoryEntryV1 | None = message(33, MemoryEntryV1)
    swap: MemoryEntryV1 | None = message(34, MemoryEntryV1)
    kernel: MemoryEntryV1 | None = message(35, MemoryEntryV1)


class MetricsV1(Message):
    pids: PidsStat | None = message(2, PidsStat)
    cpu: CpuStatV1 | None = message(3, CpuStatV1)
    memory: MemoryStatV1 | None = message(4, MemoryStatV1)


class CpuStatV2(Message):
    """In microseconds."""

    usage_usec: int = uint64(1)
    user_usec: int = uint64(2)
    system_usec: int = uint64(3)
    nr_periods: int = uint64(4)
    nr_throttled: int = uint64(5)
    throttled_usec: int = uint64(6)


class MemoryStatV2(Message):
    """In bytes, but for the two counts of page faults."""

    anon: int = uint64(1)
    file: int = uint64(2)
    kernel_stack: int = uint64(3)
    slab: int = uint64(4)
    sock: int = uint64(5)
    shmem: int = uint64(6)
    file_mapped: int = uint64(7)
    file_dirty: int = uint64(8)
    file_writeback: int = uint64(9)
    inactive_anon: int = uint64(11)
    active_anon: int = uint64(12)
    inactive_file: int = uint64(13)
    active_file: int = uint64(14)
    unevictable: int = uint64(15)
    pgfault: int = uint64(18)
    pgmajfault: int = uint64(19)
    usage: int = uint64(32)
    usage_limit: int = uint64(33)
    swap_usage: int = uint64(34)
    swap_limit: int = uint64(35)
    max_usage: int = uint64(36)


class MetricsV2(Message):
    pids: PidsStat | None = message(1, PidsStat)
    cpu: CpuStatV2 | None = message(2, CpuStatV2)
    memory: MemoryStatV2 | None = message(4, MemoryStatV2)
