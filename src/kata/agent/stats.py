"""What a container has used: cgroup v2 files to the protocol's CgroupStats.

The protocol was made for cgroup v1, so a few fields have no source here: no per-CPU usage, no failure counts but the
kernel's "max" events, no kernel memory limit. Source of the files: Documentation/admin-guide/cgroup-v2.rst.
"""

from kata.agent.cgroup import Cgroup
from kata.protocol.messages.agent import (
    BlkioStats,
    BlkioStatsEntry,
    CgroupStats,
    CpuStats,
    CpuUsage,
    HugetlbStats,
    MemoryData,
    MemoryStats,
    NetworkStats,
    PidsStats,
    ThrottlingData,
)

_MICROSECOND = 1000
_UNLIMITED = (1 << 64) - 1
_HUGE_PAGES = ("64KB", "2MB", "32MB", "1GB")
# Column of /proc/net/dev (after the name) to the protocol's field.
_NETWORK = {
    "rx_bytes": 0,
    "rx_packets": 1,
    "rx_errors": 2,
    "rx_dropped": 3,
    "tx_bytes": 8,
    "tx_packets": 9,
    "tx_errors": 10,
    "tx_dropped": 11,
}


def read_stats(cgroup: Cgroup) -> CgroupStats:
    """Everything about one container. Absent controllers give absent parts."""
    return CgroupStats(
        cpu_stats=_read_cpu(cgroup),
        memory_stats=_read_memory(cgroup),
        pids_stats=_read_pids(cgroup),
        blkio_stats=parse_io(cgroup.read("io.stat")),
        hugetlb_stats=_read_hugetlb(cgroup),
    )


def parse_flat(text: str) -> dict[str, int]:
    """Lines of a name and a number."""
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}


def parse_limit(text: str, unlimited: int) -> int:
    """A number, or `max`."""
    text = text.strip()
    if text == "max":
        return unlimited
    return int(text) if text.isdecimal() else 0


def _read_cpu(cgroup: Cgroup) -> CpuStats:
    stat = parse_flat(cgroup.read("cpu.stat"))
    usage = CpuUsage(
        total_usage=stat.get("usage_usec", 0) * _MICROSECOND,
        usage_in_usermode=stat.get("user_usec", 0) * _MICROSECOND,
        usage_in_kernelmode=stat.get("system_usec", 0) * _MICROSECOND,
    )
    throttling = ThrottlingData(
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_time=stat.get("throttled_usec", 0) * _MICROSECOND,
    )
    return CpuStats(cpu_usage=usage, throttling_data=throttling)


def _read_memory(cgroup: Cgroup) -> MemoryStats | None:
    current = cgroup.read("memory.current")
    if not current:
        return None
    stats = parse_flat(cgroup.read("memory.stat")) | parse_flat(cgroup.read("memory.events"))
    return MemoryStats(
        cache=stats.get("file", 0),
        usage=_read_memory_data(cgroup, "memory"),
        swap_usage=_read_memory_data(cgroup, "memory.swap"),
        kernel_usage=MemoryData(usage=stats.get("kernel", 0)),
        use_hierarchy=True,
        stats=stats,
    )


def _read_memory_data(cgroup: Cgroup, prefix: str) -> MemoryData:
    usage = parse_limit(cgroup.read(f"{prefix}.current"), 0)
    return MemoryData(
        usage=usage,
        max_usage=max(parse_limit(cgroup.read(f"{prefix}.peak"), 0), usage),
        failcnt=parse_flat(cgroup.read(f"{prefix}.events")).get("max", 0),
        limit=parse_limit(cgroup.read(f"{prefix}.max"), _UNLIMITED),
    )


def _read_pids(cgroup: Cgroup) -> PidsStats | None:
    current = cgroup.read("pids.current")
    if not current:
        return None
    return PidsStats(current=int(current), limit=parse_limit(cgroup.read("pids.max"), 0))


def parse_io(text: str) -> BlkioStats:
    """Lines such as `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`."""
    stats = BlkioStats()
    for line in text.splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        for entries, reading, writing, discarding in (
            (stats.io_service_bytes_recursive, "rbytes", "wbytes", "dbytes"),
            (stats.io_serviced_recursive, "rios", "wios", "dios"),
        ):
            for op, key in (("read", reading), ("write", writing), ("discard", discarding)):
                if key in values:
                    entry = BlkioStatsEntry(major=int(major), minor=int(minor), op=op, value=int(values[key]))
                    entries.append(entry)
    return stats


def _read_hugetlb(cgroup: Cgroup) -> dict[str, HugetlbStats]:
    found = {}
    for size in _HUGE_PAGES:
        current = cgroup.read(f"hugetlb.{size}.current")
        if current:
            events = parse_flat(cgroup.read(f"hugetlb.{size}.events"))
            found[size] = HugetlbStats(usage=int(current), failcnt=events.get("max", 0))
    return found


def parse_network(text: str) -> list[NetworkStats]:
    """/proc/net/dev without the loopback interface: the guest has one network, so it is every container's."""
    found = []
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        columns = rest.split()
        if name.strip() != "lo" and len(columns) > max(_NETWORK.values()):
            numbers = {field: int(columns[column]) for field, column in _NETWORK.items()}
            found.append(NetworkStats(name=name.strip(), **numbers))
    return found


def read_network() -> list[NetworkStats]:
    with open("/proc/net/dev", encoding="ascii") as file:
        return parse_network(file.read())
