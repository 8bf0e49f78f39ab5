"""The keeper of the pool: has as many VMs wait as the configuration wants, each in a process of its own.

It makes no VM itself. What waits tells by a pipe that it is ready, why it cannot be, and, by its end, that it was taken
or has died. The keeper's own end is the end of all that wait, and of nothing that was taken.
"""

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from kata.config.load import load_configuration
from kata.errors import DeadlineError, KataError, StateError
from kata.resources.cgroup import join_cgroup
from kata.resources.host import measure_host
from kata.resources.size import size_vm
from kata.sandbox.collect import release_directory
from kata.sandbox.pool import END, NOTE, Offer, ask, find_pool, list_offering
from kata.sandbox.program import find_own_program
from kata.sandbox.store import is_being_made, is_served, lock_sandbox
from kata.sandbox.waiting import CARD, TAKEN_MARK
from kata.sys.file import read_text, replace_file
from kata.sys.process import end_process, is_alive, read_start_ticks

_LOG = "log"
_PID = "keeper"
_RETRY = 30.0
"""Seconds after which it is tried again to have a VM wait, where there was no memory or it failed."""

_PAUSE = 1.0
"""Seconds that whoever took a VM has for its container's start, before the next VM wants the processor."""

_PROCESSES_MIB = 48
"""What the processes of a VM take beside its guest's memory: measured, docs/performance.md."""

_SPARED = 10
"""A tenth of the host's memory is never promised."""

_START_TIMEOUT = 300.0
_END_TIMEOUT = 20.0


class Member(NamedTuple):
    """A VM that waits. `memory_mib` is its guest's; `pids` are its processes, the one that it waits in first."""

    name: str
    summary: str
    memory_mib: int
    pids: tuple[int, ...]

    def measure(self) -> float:
        """Return the MiB that its processes take of the host's memory, shared ones by their share."""
        kilobytes = 0
        for pid in self.pids:
            with suppress(OSError, IndexError):  # it has ended
                kilobytes += int(read_text(f"/proc/{pid}/smaps_rollup").partition("\nPss:")[2].split()[0])
        return kilobytes / 1024


def list_members(root: str) -> list[Member]:
    """Return the VMs that wait."""
    pool, members = find_pool(root), []
    for name in list_offering(pool):
        with suppress(ValueError, KeyError):  # taken in this moment
            card = json.loads(read_text(f"{pool}/{name}/{CARD}"))
            members.append(Member(name, str(card["summary"]), int(card["memory"]), tuple(card["pids"])))
    return members


def find_shortage(members: list[Member], memory_mib: int, *, available_mib: float, total_mib: float) -> str:
    """Return why no more VM of this size may wait, or an empty string.

    All that wait must find the memory that they may come to use, measured against what the host has at this moment.
    """
    promised = sum(max(0.0, member.memory_mib + _PROCESSES_MIB - member.measure()) for member in members)
    wanted = memory_mib + _PROCESSES_MIB
    left = available_mib - promised - total_mib / _SPARED
    if wanted <= left:
        return ""
    return (
        f"another VM of {memory_mib} MiB may come to need {wanted} MiB of the host's memory, and {max(0, left):.0f} MiB"
        " are to be had"
    )


def _measure_available() -> float:
    """Return the MiB that programs could get: MemAvailable of proc(5)."""
    for line in read_text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> int:
    """Keep the pool: `root` and the configuration's path. Return the exit code."""
    root, config = sys.argv[1:]
    pool = find_pool(root)
    try:
        lock = lock_sandbox(pool)
    except StateError:
        print("the pool has a keeper already", file=sys.stderr)
        return 1
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for a process: its pipe tells of its end
    join_cgroup("/", os.getpid())
    replace_file(f"{pool}/{_PID}", f"{os.getpid()} {read_start_ticks(os.getpid())}")
    keeper = Keeper(root, config)
    try:
        keeper.run()
    finally:
        keeper.end()
        for name in (NOTE, _PID):
            _unlink(f"{pool}/{name}")
        os.close(lock)
    return 0


class Keeper:
    """Starts processes that wait, one at a time."""

    def __init__(self, root: str, config: str) -> None:
        self._root = root
        self._config = config
        self._pool = find_pool(root)
        self._pipes: dict[int, str] = {}
        self._starting = -1
        self._again = 0.0
        self._wake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGTERM, lambda *_: None)

    def run(self) -> None:
        """Fill the pool again and again, until SIGTERM."""
        while True:
            wants_more = self._fill()
            poller = select.poll()
            for descriptor in (self._wake, *self._pipes):
                poller.register(descriptor, select.POLLIN)
            pause = max(0.0, self._again - time.monotonic()) * 1000 if wants_more and self._starting < 0 else None
            for descriptor, _ in poller.poll(pause):
                if descriptor == self._wake:
                    return
                self._listen(descriptor)

    def _fill(self) -> bool:
        """Start one more where one is missing. Say whether one is."""
        if self._starting >= 0 or time.monotonic() < self._again:
            return True
        try:
            config = load_configuration(self._config or None)
            wanted = config.factory.vm_cache_number
            if len(self._pipes) >= wanted:
                self._note("")
                return False
            host = measure_host()
            size = size_vm({}, config.hypervisor, host)
            available, total = _measure_available(), host.memory_mib
            reason = find_shortage(list_members(self._root), size.memory_mib, available_mib=available, total_mib=total)
            if not reason:
                self._start()
        except (KataError, OSError) as error:
            reason = str(error)
        if reason:
            self._note(reason)
        return True

    def _note(self, reason: str) -> None:
        if reason:
            self._again = time.monotonic() + _RETRY
            replace_file(f"{self._pool}/{NOTE}", reason)
        else:
            _unlink(f"{self._pool}/{NOTE}")

    def _start(self) -> None:
        for line in collect_dead(self._root, dry_run=False):
            print(line, file=sys.stderr, flush=True)
        name = f"pool-{secrets.token_hex(6)}"
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        os.set_inheritable(theirs, True)
        words = [self._root, name, self._config, str(theirs), str(os.getpid())]
        command = ["nice", "-n", "19", *find_own_program("waiter"), *words]
        try:
            os.posix_spawnp("nice", command, os.environ, setsid=True, setsigmask=[], setsigdef=[signal.SIGTERM])
        finally:
            os.close(theirs)
        self._pipes[ours] = name
        self._starting = ours

    def _listen(self, descriptor: int) -> None:
        """Hear what one that waits has to say: `ready`, why it cannot, or nothing, as it is no more of the pool."""
        data = os.read(descriptor, 1 << 16)
        if descriptor == self._starting:
            self._starting = -1
            if data != b"ready\n":
                self._note(data.decode(errors="replace").strip() or "a process that was to wait has died: see its log")
        if not data:
            self._again = max(self._again, time.monotonic() + _PAUSE)
            del self._pipes[descriptor]
            os.close(descriptor)

    def end(self) -> None:
        """End all that wait."""
        for name in self._pipes.values():
            ask(f"{self._pool}/{name}", Offer(END, [], {}, {}), timeout=_END_TIMEOUT)
        # What is not ready yet hears nothing; the kernel ends it with this process.


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def start_keeper(root: str, config: str, number: int) -> str:
    """Start the keeper in place of another, and wait until `number` VMs wait. Return why fewer do, or nothing.

    Raise DeadlineError.
    """
    destroy_pool(root)
    pool = find_pool(root)
    os.makedirs(pool, mode=0o700, exist_ok=True)
    with open(f"{pool}/{_LOG}", "wb") as log:
        words = [*find_own_program("keeper"), root, config]
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True)
    deadline = time.monotonic() + _START_TIMEOUT
    while len(list_offering(pool)) < number:
        if note := read_text(f"{pool}/{NOTE}"):
            return note
        if time.monotonic() > deadline:
            raise DeadlineError(f"the pool was not filled within {_START_TIMEOUT:g} s", hint=f"see {pool}/{_LOG}")
        time.sleep(0.05)  # nothing tells of a file that another process makes
    return ""


def find_keeper(root: str) -> int:
    """Return the keeper's pid, 0 where none lives."""
    pid, ticks = _read_keeper(root)
    return pid if pid and is_alive(pid, ticks) else 0


def _read_keeper(root: str) -> tuple[int, int]:
    """Return the pid and the start ticks that a keeper has left word of, 0 and 0 where none has."""
    with suppress(ValueError):
        pid, ticks = (int(word) for word in read_text(f"{find_pool(root)}/{_PID}").split())
        return pid, ticks
    return 0, 0


def read_note(root: str) -> str:
    """Return why fewer VMs wait than should, or an empty string."""
    return read_text(f"{find_pool(root)}/{NOTE}")


def destroy_pool(root: str) -> int:
    """End the keeper and all that wait, and return how many did. What was taken is not touched. Raise DeadlineError."""
    pool = find_pool(root)
    count = len(list_offering(pool))
    pid, ticks = _read_keeper(root)
    if pid:
        _end_keeper(pid, ticks)
    deadline = time.monotonic() + _END_TIMEOUT
    while collect_dead(root, dry_run=False, is_young_kept=False) or any(_list_waiting(pool)):
        if time.monotonic() > deadline:
            raise DeadlineError(f"what waits at {pool} does not end")
        time.sleep(0.02)  # they are nobody's children, and their locks tell of their ends
    for name in (NOTE, _PID, _LOG, "lock"):
        _unlink(f"{pool}/{name}")
    with suppress(OSError):  # what was taken is still in it
        os.rmdir(pool)
    return count


def _end_keeper(pid: int, ticks: int) -> None:
    """End a keeper, by force where it does not by itself, unless it has ended. Raise DeadlineError."""
    try:
        end_process(pid, ticks, signal.SIGTERM, signal.SIGKILL, timeout=_END_TIMEOUT)
    except TimeoutError as error:
        raise DeadlineError(f"the keeper of the pool (process {pid}) does not end") from error


def _list_waiting(pool: str) -> Iterator[str]:
    """Yield the names of those that are not taken."""
    for name in _list_names(pool):
        if not os.path.exists(f"{pool}/{name}/{TAKEN_MARK}"):
            yield name


def _list_names(pool: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(pool) if os.path.isdir(f"{pool}/{name}"))
    except FileNotFoundError:
        return []


def collect_dead(root: str, *, dry_run: bool, is_young_kept: bool = True) -> list[str]:
    """Release what processes left that waited and died. Return a line for each thing; `dry_run` touches nothing.

    A directory so young that its process may just come to lock it is kept, unless there can be no such process.
    """
    pool = find_pool(root)
    lines = []
    for name in _list_names(pool):
        directory = f"{pool}/{name}"
        if not is_served(directory) and not (is_young_kept and is_being_made(directory)):
            lines += release_directory(f"VM {name} of the pool", directory, dry_run=dry_run)
    return lines
