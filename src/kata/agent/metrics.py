"""Figures of the agent and of the guest's kernel, as Prometheus text. Names are upstream's. Source: proc(5)."""

import os
import resource
from collections.abc import Iterable, Mapping
from itertools import count

from kata.sys import mount

_scrapes = count(1)

_REAL = frozenset({"ext4", "xfs", "btrfs", "vfat", "overlay"})
_STAT = {
    "utime": 11,
    "stime": 12,
    "cutime": 13,
    "cstime": 14,
    "priority": 15,
    "nice": 16,
    "num_threads": 17,
    "starttime": 19,
    "vsize": 20,
    "rss": 21,
    "processor": 36,
}
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
_NETWORK = (
    *("recv_bytes", "recv_packets", "recv_errs", "recv_drop", "recv_fifo", "recv_frame", "recv_compressed"),
    *("recv_multicast", "sent_bytes", "sent_packets", "sent_errs", "sent_drop", "sent_fifo", "sent_colls"),
    *("sent_carrier", "sent_compressed"),
)

Sample = tuple[Mapping[str, str], float]


def render_metrics() -> str:
    """One scrape."""
    out: list[str] = []
    _add(out, "kata_agent_scrape_count", "Metrics scrape count", [({}, next(_scrapes))], kind="counter")
    _add_agent(out)
    _add_guest(out)
    return "".join(out)


def _add(out: list[str], name: str, text: str, samples: Iterable[Sample], kind: str = "gauge") -> None:
    rows = []
    for labels, value in samples:
        joined = ",".join(f'{key}="{_escape(label)}"' for key, label in labels.items())
        rows.append(f"{name}{{{joined}}} {value:.15g}\n" if joined else f"{name} {value:.15g}\n")
    if rows:
        out += [f"# HELP {name} {text}\n", f"# TYPE {name} {kind}\n", *rows]


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _items(values: Mapping[str, float]) -> list[Sample]:
    return [({"item": item}, value) for item, value in values.items()]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _add_agent(out: list[str]) -> None:
    fields = _read("/proc/self/stat").rpartition(")")[2].split()
    stat = {name: int(fields[column]) for name, column in _STAT.items()}
    ticks = os.sysconf("SC_CLK_TCK")
    _add(out, "kata_agent_threads", "Agent process threads", [({}, stat["num_threads"])])
    _add(out, "kata_agent_total_time", "Agent process total time", [({}, (stat["utime"] + stat["stime"]) / ticks)])
    _add(out, "kata_agent_total_vm", "Agent process total VM size", [({}, stat["vsize"])])
    rss = stat["rss"] * resource.getpagesize()
    _add(out, "kata_agent_total_rss", "Agent process total RSS size", [({}, rss)])
    _add(out, "kata_agent_proc_stat", "Agent process statistics.", _items(stat))
    _add(out, "kata_agent_proc_status", "Agent process status.", _items(parse_colons(_read("/proc/self/status"))))
    fds = len(os.listdir("/proc/self/fd"))
    _add(out, "kata_agent_process_open_fds", "Number of open file descriptors.", [({}, fds)])
    _add(out, "kata_agent_process_resident_memory_bytes", "Resident memory size in bytes.", [({}, rss)])
    _add(out, "kata_agent_process_virtual_memory_bytes", "Virtual memory size in bytes.", [({}, stat["vsize"])])
    _add(out, "kata_agent_io_stat", "Agent process IO statistics.", _items(parse_colons(_read("/proc/self/io"))))


def parse_colons(text: str) -> dict[str, float]:
    """Lines such as `VmRSS:  1234 kB` and `rchar: 5`, without those whose value is no number."""
    values: dict[str, float] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            values[_snake(name)] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return values


def _snake(name: str) -> str:
    """`MemTotal` to `mem_total`, `Active(anon)` to `active_anon`."""
    out = ""
    for before, char in zip(" " + name, name, strict=False):
        if char.isupper() and (before.islower() or before.isdigit()):
            out += "_"
        out += char.lower() if char.isalnum() else "_"
    return out.strip("_")


def _add_guest(out: list[str]) -> None:
    load = _read("/proc/loadavg").split()
    if len(load) > 3:
        loads = dict(zip(("load1", "load5", "load15"), map(float, load[:3]), strict=True))
        _add(out, "kata_guest_load", "Guest system load.", _items(loads))
        running, _, total = load[3].partition("/")
        _add(out, "kata_guest_tasks", "Guest system load.", _items({"cur": int(running), "max": int(total)}))
    _add(out, "kata_guest_cpu_time", "Guest CPU statistics.", parse_cpu_times(_read("/proc/stat")))
    rows = (line.split() for line in _read("/proc/vmstat").splitlines())
    vm = {row[0]: float(row[1]) for row in rows if len(row) == 2}
    _add(out, "kata_guest_vm_stat", "Guest virtual memory statistics.", _items(vm))
    network = parse_devices(_read("/proc/net/dev"))
    _add(out, "kata_guest_netdev_stat", "Guest net devices statistics.", network)
    _add(out, "kata_guest_diskstat", "Disks statistics in system.", parse_disks(_read("/proc/diskstats")))
    memory = parse_colons(_read("/proc/meminfo"))
    _add(out, "kata_guest_meminfo", "Statistics about memory usage in the system.", _items(memory))
    space, inodes = _measure_filesystems()
    _add(out, "kata_guest_filesystem_bytes", "Guest filesystem space usage in bytes.", space)
    _add(out, "kata_guest_filesystem_inodes", "Guest filesystem inode usage.", inodes)


def parse_cpu_times(text: str) -> list[Sample]:
    """The `cpu` lines of /proc/stat, in seconds."""
    ticks = os.sysconf("SC_CLK_TCK")
    samples: list[Sample] = []
    for line in text.splitlines():
        name, *numbers = line.split() or [""]
        if name.startswith("cpu"):
            cpu = name.removeprefix("cpu") or "total"
            samples += [
                ({"cpu": cpu, "item": item}, int(number) / ticks) for item, number in zip(_CPU, numbers, strict=False)
            ]
    return samples


def parse_devices(text: str) -> list[Sample]:
    samples: list[Sample] = []
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        pairs = zip(_NETWORK, rest.split(), strict=False)
        samples += [({"interface": name.strip(), "item": item}, int(number)) for item, number in pairs]
    return samples


def parse_disks(text: str) -> list[Sample]:
    samples: list[Sample] = []
    for line in text.splitlines():
        fields = line.split()
        samples += [
            ({"disk": fields[2], "item": item}, int(fields[column])) for item, column in _DISK if column < len(fields)
        ]
    return samples


def _measure_filesystems() -> tuple[list[Sample], list[Sample]]:
    """Writable ones on something real, each device once."""
    space: list[Sample] = []
    inodes: list[Sample] = []
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


def _split(labels: Mapping[str, str], total: int, free: int) -> list[Sample]:
    values = {"total": total, "used": total - free, "available": free}
    return [({**labels, "item": item}, value) for item, value in values.items()]
