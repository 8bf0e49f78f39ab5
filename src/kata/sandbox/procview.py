"""A `/proc` on the host that shows a container's processes, for engines that look there.

Podman's `top` enters the mount namespace of the container's pid and reads /proc in it. That pid is a stand-in here, so
its namespace has a small file system on /proc that is filled at the moment when somebody opens it: fanotify holds the
opener until the guest was asked. Nothing is done while nobody looks.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from kata.errors import KataError
from kata.protocol.messages.inspect import ProcessInfo
from kata.protocol.text import clean_text
from kata.sys.fanotify import allow_open, read_openers, watch_opens
from kata.sys.tree import remove_tree

_ASK_TIMEOUT = 2.0
_MOST = 4096
_STATES = "RSDZTtWXxKPI"
_TICKS = os.sysconf("SC_CLK_TCK")


class ProcView:
    """Keeps the directory that `descriptor` shows up to date. Owns the descriptor."""

    def __init__(self, descriptor: int, ask: Callable[[], Awaitable[list[ProcessInfo]]]) -> None:
        self._directory = descriptor
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._path = f"/proc/self/fd/{descriptor}"
        self._write("stat", f"btime {_find_boot_time()}\n")
        self._watcher = watch_opens(self._path)
        self._loop.add_reader(self._watcher, self._see_openers)

    def _see_openers(self) -> None:
        for descriptor, pid in read_openers(self._watcher):
            if pid == os.getpid():
                allow_open(self._watcher, descriptor)
                continue
            task = self._loop.create_task(self._refresh(descriptor))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _refresh(self, opener: int) -> None:
        try:
            with suppress(KataError, OSError, TimeoutError):
                async with asyncio.timeout(_ASK_TIMEOUT):
                    processes = await self._ask()
                self._show(processes)
        finally:
            allow_open(self._watcher, opener)

    def _show(self, processes: list[ProcessInfo]) -> None:
        shown = {str(process.pid): process for process in processes[:_MOST] if process.pid > 0}
        for name in os.listdir(self._directory):
            if name.isdigit() and name not in shown:
                remove_tree(f"{self._path}/{name}")
        uptime = int((time.time() - _find_boot_time()) * _TICKS)
        for name, process in shown.items():
            with suppress(FileExistsError):
                os.makedirs(f"{self._path}/{name}/attr")
                os.makedirs(f"{self._path}/{name}/ns")
                os.symlink("pid:[0]", f"{self._path}/{name}/ns/pid")
            self._write(f"{name}/stat", format_stat(process, uptime))
            self._write(f"{name}/status", format_status(process))
            self._write(f"{name}/cmdline", "".join(f"{argument}\0" for argument in process.arguments))

    def _write(self, name: str, text: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(name, flags, 0o444, dir_fd=self._directory), "w") as file:
            file.write(text)

    def close(self) -> None:
        self._loop.remove_reader(self._watcher)
        for task in self._tasks:
            task.cancel()
        os.close(self._watcher)
        os.close(self._directory)


def _find_boot_time() -> int:
    return int(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))


def format_stat(process: ProcessInfo, uptime: int) -> str:
    """Return a line of /proc/PID/stat, as proc(5) numbers its fields. `uptime` of the host is in clock ticks."""
    fields: list[object] = [0] * 52
    fields[0], fields[1], fields[2], fields[3] = (
        process.pid,
        f"({clean_text(process.name)})",
        _pick_state(process),
        process.parent,
    )
    fields[6], fields[13], fields[14] = process.terminal, process.user_ticks, process.system_ticks
    fields[17], fields[18], fields[19] = 20, 0, process.threads
    fields[21], fields[22] = max(0, uptime - process.age), process.virtual_kib * 1024
    fields[23] = process.resident_kib // 4
    return " ".join(str(field) for field in fields) + "\n"


def format_status(process: ProcessInfo) -> str:
    """Return /proc/PID/status with the lines that tools read."""
    rows: list[tuple[str, object]] = [
        ("Name", clean_text(process.name)),
        ("Umask", "0022"),
        ("State", _pick_state(process)),
        ("Tgid", process.pid),
        ("Ngid", 0),
        ("Pid", process.pid),
        ("PPid", process.parent),
        ("TracerPid", 0),
        ("Uid", "\t".join([str(process.uid)] * 4)),
        ("Gid", "\t".join([str(process.gid)] * 4)),
        ("FDSize", 64),
        ("Groups", ""),
        ("NStgid", process.pid),
        ("NSpid", process.pid),
        ("NSpgid", process.pid),
        ("NSsid", process.pid),
        ("VmSize", f"{process.virtual_kib} kB"),
        ("VmRSS", f"{process.resident_kib} kB"),
        ("Threads", process.threads),
        *((name, "0" * 16) for name in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")),
        *((name, "0" * 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")),
        ("Seccomp", 0),
    ]
    return "".join(f"{name}:\t{value}\n" for name, value in rows)


def _pick_state(process: ProcessInfo) -> str:
    """Return one of the letters of proc(5), whatever the guest says: an empty field would shift all others."""
    return process.state if len(process.state) == 1 and process.state in _STATES else "?"
