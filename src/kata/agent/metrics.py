"""Figures of the agent and of the guest's kernel, as Prometheus text. Source: proc(5).

Names, labels and units are upstream's, which are not the same everywhere: sizes are in bytes but for those of
`kata_agent_proc_status`, which are in KiB; times are in clock ticks but for `kata_guest_cpu_time`, which is in
milliseconds.
"""

import os
from collections.abc import Mapping
from itertools import count

from kata.protocol.exposition import Family, Row, encode_families, make_family, make_gauge, make_items
from kata.protocol.process_metrics import list_network_rows, list_standard_families
from kata.sys import mount, procfs

_scrapes = count(1)

_KIB = 1024
_REAL = frozenset({"ext4", "xfs", "btrfs", "vfat", "overlay"})
_CPU = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
_DISK = (
    ("reads", 3),
    ("merged", 4),
    ("sectors_read", 5),
    ("time_reading", 6),
    ("writes", 7),
    ("writes_merged", 8),
    ("sectors_written", 9),
    ("time_writing", 10),
    ("in_progress", 11),
    ("time_in_progress", 12),
    ("weighted_time_in_progress", 13),
    ("discards", 14),
    ("discards_merged", 15),
    ("sectors_discarded", 16),
    ("time_discarding", 17),
)
_IRREGULAR = {
    "SReclaimable": "s_reclaimable",
    "SUnreclaim": "s_unreclaim",
    "KReclaimable": "k_reclaimable",
    "Percpu": "per_cpu",
    "AnonHugePages": "anon_hugepages",
    "ShmemHugePages": "shmem_hugepages",
    "HugePages_Total": "hugepages_total",
    "HugePages_Free": "hugepages_free",
    "HugePages_Rsvd": "hugepages_rsvd",
    "HugePages_Surp": "hugepages_surp",
    "DirectMap4k": "direct_map_4k",
    "DirectMap4M": "direct_map_4M",
    "DirectMap2M": "direct_map_2M",
    "DirectMap1G": "direct_map_1G",
}
"""Names in /proc/meminfo whose item is not their words in lower case."""


def render_metrics() -> str:
    """One scrape."""
    return encode_families([*_list_agent_families(), *_list_guest_families()])


def _list_agent_families() -> list[Family]:
    name = "kata_agent"
    process = procfs.read_process("self")
    if process is None:
        return []
    stat = process.stat
    in_kib = {item: value if item.endswith("switches") else value // _KIB for item, value in process.status.items()}
    return [
        make_family(f"{name}_scrape_count", "Metrics scrape count", [({}, next(_scrapes))], "counter"),
        make_gauge(f"{name}_threads", "Agent process threads", stat["num_threads"]),
        make_gauge(f"{name}_total_time", "Agent process total time", (stat["utime"] + stat["stime"]) / process.ticks),
        make_gauge(f"{name}_total_vm", "Agent process total VM size", stat["vsize"]),
        make_gauge(f"{name}_total_rss", "Agent process total RSS size", stat["rss"]),
        make_items(f"{name}_proc_stat", "Agent process statistics.", procfs.select_times(stat)),
        make_items(f"{name}_proc_status", "Agent process status.", in_kib),
        make_items(f"{name}_io_stat", "Agent process IO statistics.", process.io),
        *list_standard_families(name, process),
    ]


def _list_guest_families() -> list[Family]:
    rows = (line.split() for line in procfs.read_figures("/proc/vmstat").splitlines())
    vm = {row[0]: int(row[1]) for row in rows if len(row) == 2}
    network = procfs.parse_network(procfs.read_figures("/proc/net/dev"))
    memory = procfs.parse_fields(procfs.read_figures("/proc/meminfo"))
    space, inodes = _measure_filesystems()
    return [
        *_list_load_families(procfs.read_figures("/proc/loadavg").split()),
        make_family("kata_guest_cpu_time", "Guest CPU statistics.", parse_cpu_times(procfs.read_figures("/proc/stat"))),
        make_items("kata_guest_vm_stat", "Guest virtual memory statistics.", vm),
        make_family("kata_guest_netdev_stat", "Guest net devices statistics.", list_network_rows(network)),
        make_family(
            "kata_guest_diskstat", "Disks statistics in system.", parse_disks(procfs.read_figures("/proc/diskstats"))
        ),
        make_items(
            "kata_guest_meminfo",
            "Statistics about memory usage in the system.",
            {name_memory_item(name): value for name, value in memory.items()},
        ),
        make_family("kata_guest_filesystem_bytes", "Guest filesystem space usage in bytes.", space),
        make_family("kata_guest_filesystem_inodes", "Guest filesystem inode usage.", inodes),
    ]


def _list_load_families(load: list[str]) -> list[Family]:
    if len(load) < 4:
        return []
    loads = dict(zip(("load1", "load5", "load15"), map(float, load[:3]), strict=True))
    running, _, total = load[3].partition("/")
    return [
        make_items("kata_guest_load", "Guest system load.", loads),
        make_items("kata_guest_tasks", "Guest system load.", {"cur": int(running), "max": int(total)}),
    ]


def name_memory_item(name: str) -> str:
    """`MemTotal` to `mem_total`, `Active(anon)` to `active_anon`."""
    if name in _IRREGULAR:
        return _IRREGULAR[name]
    out = ""
    for before, char in zip(" " + name, name, strict=False):
        if char.isupper() and (before.islower() or before.isdigit()):
            out += "_"
        out += char.lower() if char.isalnum() else "_"
    return out.strip("_")


def parse_cpu_times(text: str) -> list[Row]:
    """The `cpu` lines of /proc/stat, in milliseconds."""
    tick = 1000 / os.sysconf("SC_CLK_TCK")
    samples: list[Row] = []
    for line in text.splitlines():
        name, *numbers = line.split() or [""]
        if name.startswith("cpu"):
            cpu = name.removeprefix("cpu") or "total"
            samples += [
                ({"cpu": cpu, "item": item}, int(number) * tick) for item, number in zip(_CPU, numbers, strict=False)
            ]
    return samples


def parse_disks(text: str) -> list[Row]:
    samples: list[Row] = []
    for line in text.splitlines():
        fields = line.split()
        samples += [
            ({"disk": fields[2], "item": item}, int(fields[column])) for item, column in _DISK if column < len(fields)
        ]
    return samples


def _measure_filesystems() -> tuple[list[Row], list[Row]]:
    """Writable ones on something real, each device once."""
    space: list[Row] = []
    inodes: list[Row] = []
    seen = set()
    for point in mount.list_mounts("/"):
        if point.fstype not in _REAL or point.device in seen or "ro" in point.options.split(","):
            continue
        seen.add(point.device)
        try:
            status = os.statvfs(point.path)
        except OSError:
            continue
        labels = {"mount": point.path, "device": point.source.rpartition("/")[2]}
        size = status.f_frsize
        space += _split(labels, status.f_blocks * size, status.f_bfree * size)
        inodes += _split(labels, status.f_files, status.f_ffree)
    return space, inodes


def _split(labels: Mapping[str, str], total: int, free: int) -> list[Row]:
    values = {"total": total, "used": total - free, "available": free}
    return [({**labels, "item": item}, value) for item, value in values.items()]
