"""What runs in a container. Field numbers and names: proc(5)."""

import os
from contextlib import suppress

from kata.protocol.messages.inspect import ProcessInfo

_MOST = 4096
_LONGEST = 4096
_TICKS = 100


def list_processes(pids: list[int]) -> list[ProcessInfo]:
    """Describe the processes with these ids of the guest, by their ids in the innermost pid namespace.

    One that ends meanwhile is left out; so is what goes beyond a few thousand.
    """
    with open("/proc/uptime", encoding="ascii") as file:
        now = int(float(file.read().split()[0]) * _TICKS)
    found = []
    inner = {0: 0}
    for pid in pids[:_MOST]:
        with suppress(FileNotFoundError, ProcessLookupError):
            info = _read_process(pid, now)
            inner[pid] = info.pid
            found.append(info)
    for info in found:
        info.parent = inner.get(info.parent, 0)
    return sorted(found, key=lambda info: info.pid)


def _read(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as file:
        return file.read(_LONGEST)


def _read_process(pid: int, now: int) -> ProcessInfo:
    head, _, rest = _read(pid, "stat").rpartition(")")
    fields = rest.split()
    status = dict(line.split(":", 1) for line in _read(pid, "status").splitlines() if ":" in line)
    return ProcessInfo(
        pid=int(status["NSpid"].split()[-1]),
        parent=int(fields[1]),
        uid=int(status["Uid"].split()[1]),
        gid=int(status["Gid"].split()[1]),
        state=fields[0],
        terminal=int(fields[4]),
        user_ticks=int(fields[11]),
        system_ticks=int(fields[12]),
        threads=int(fields[17]),
        age=max(0, now - int(fields[19])),
        virtual_kib=int(fields[20]) // 1024,
        resident_kib=int(fields[21]) * os.sysconf("SC_PAGESIZE") // 1024,
        name=head.partition(" (")[2],
        arguments=_read(pid, "cmdline").rstrip("\0").split("\0") if fields[0] != "Z" else [],
    )
