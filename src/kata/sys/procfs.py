"""Figures of /proc, as numbers by the kernel's names. Source: proc(5)."""

import os
import resource
from typing import NamedTuple

NETWORK_COLUMNS = (
    *("recv_bytes", "recv_packets", "recv_errs", "recv_drop", "recv_fifo", "recv_frame", "recv_compressed"),
    *("recv_multicast", "sent_bytes", "sent_packets", "sent_errs", "sent_drop", "sent_fifo", "sent_colls"),
    *("sent_carrier", "sent_compressed"),
)
"""The columns of /proc/net/dev after the interface's name."""

_STAT_COLUMNS = {
    "utime": 11,
    "stime": 12,
    "cutime": 13,
    "cstime": 14,
    "num_threads": 17,
    "starttime": 19,
    "vsize": 20,
    "rss": 21,
}
_TIMES = ("utime", "stime", "cutime", "cstime")
_STATUS = frozenset(
    {"HugetlbPages", "VmPeak", "VmSize", "VmLck", "VmPin", "VmHWM", "VmRSS", "RssAnon", "RssFile", "RssShmem"}
    | {"VmData", "VmStk", "VmExe", "VmLib", "VmPTE", "VmPMD", "VmSwap"}
    | {"voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"}
)
_KIB = 1024


def parse_stat_figures(text: str) -> dict[str, int]:
    """Read /proc/PID/stat: times in clock ticks, `vsize` in bytes, `rss` in pages.

    Empty where the text is none.
    """
    fields = text.rpartition(")")[2].split()
    if len(fields) <= max(_STAT_COLUMNS.values()):
        return {}
    return {name: int(fields[column]) for name, column in _STAT_COLUMNS.items()}


def parse_fields(text: str) -> dict[str, int]:
    """Read lines such as `VmRSS:  1234 kB` and `rchar: 5`: kB become bytes, what is no number is left out."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            values[name] = int(words[0]) * (_KIB if words[1:] == ["kB"] else 1)
    return values


def select_times(stat: dict[str, int]) -> dict[str, int]:
    """Return the times, in clock ticks, among the figures of /proc/PID/stat."""
    return {name: stat[name] for name in _TIMES if name in stat}


def parse_process_status(text: str) -> dict[str, int]:
    """Read the sizes in /proc/PID/status, in bytes, and the counts of switches; names are in lower case."""
    return {name.lower(): value for name, value in parse_fields(text).items() if name in _STATUS}


def parse_network(text: str) -> dict[str, dict[str, int]]:
    """Read /proc/net/dev: figures by column, by interface."""
    interfaces = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        interfaces[name.strip()] = dict(zip(NETWORK_COLUMNS, map(int, rest.split()), strict=False))
    return interfaces


class Process(NamedTuple):
    """What /proc says of one process. Times are in clock ticks, of which there are `ticks` a second; sizes in bytes."""

    stat: dict[str, int]
    status: dict[str, int]
    io: dict[str, int]
    network: dict[str, dict[str, int]]
    descriptors: int
    most_descriptors: int
    ticks: int
    started_at: float
    """Seconds since 1970."""


def read_process(pid: int | str, *, network: bool = False) -> Process | None:
    """Return the figures of a process, `self` for this one; None when it is gone."""
    folder = f"/proc/{pid}"
    stat = parse_stat_figures(read_figures(f"{folder}/stat"))
    if not stat:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    stat["rss"] *= resource.getpagesize()
    return Process(
        stat,
        parse_process_status(read_figures(f"{folder}/status")),
        parse_fields(read_figures(f"{folder}/io")),
        parse_network(read_figures(f"{folder}/net/dev")) if network else {},
        _count_descriptors(folder),
        _find_most_descriptors(read_figures(f"{folder}/limits")),
        ticks,
        _read_boot_time() + stat["starttime"] / ticks,
    )


def find_worker(pid: int) -> int:
    """Return the one child of a process, or the process itself where it has none.

    A virtiofsd with namespaces of its own only waits for its child, which does the work.
    """
    children = read_figures(f"/proc/{pid}/task/{pid}/children").split()
    return int(children[0]) if len(children) == 1 else pid


def _count_descriptors(folder: str) -> int:
    try:
        return len(os.listdir(f"{folder}/fd"))
    except OSError:
        return 0


def _find_most_descriptors(limits: str) -> int:
    for line in limits.splitlines():
        if line.startswith("Max open files"):
            soft = line.split()[3]
            return int(soft) if soft.isdecimal() else 0
    return 0


def _read_boot_time() -> int:
    for line in read_figures("/proc/stat").splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return 0


def read_figures(path: str) -> str:
    """Return a file of /proc, or an empty string where it cannot be read: its process may just have ended."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
