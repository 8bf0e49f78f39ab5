"""What /proc says about a process, and signals that cannot hit a stranger. Field numbers: proc(5)."""

import os
import select
import signal
from typing import NamedTuple


class ProcessStat(NamedTuple):
    """The parts of /proc/PID/stat in use. `start_ticks` (clock ticks since boot) and the pid name a process."""

    pid: int
    command: str
    state: str
    parent: int
    start_ticks: int


def parse_stat(text: str) -> ProcessStat:
    """Read /proc/PID/stat. The command may hold spaces and brackets, so it ends at the last one."""
    head, _, rest = text.rpartition(")")
    pid, _, command = head.partition(" (")
    fields = rest.split()
    return ProcessStat(int(pid), command, fields[0], int(fields[1]), int(fields[19]))


def read_stat(pid: int) -> ProcessStat | None:
    """The stat of a process, or None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return parse_stat(file.read())
    except (FileNotFoundError, ProcessLookupError):
        return None


def read_cpu_wait(pid: int) -> float:
    """Return for how many seconds so far a process's hungriest thread wanted a CPU and got none.

    Zero for a process that is gone, and on a kernel that does not count it. Source: the kernel's
    scheduler/sched-stats.rst, /proc/PID/task/TID/schedstat.
    """
    longest = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
                longest = max(longest, int(file.read().split()[1]))
    except (OSError, IndexError, ValueError):
        return longest / 1e9
    return longest / 1e9


def read_start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is gone."""
    stat = read_stat(pid)
    return None if stat is None else stat.start_ticks


def is_alive(pid: int, start_ticks: int) -> bool:
    """Whether the process that had this pid and start time still runs (a zombie does not)."""
    stat = read_stat(pid)
    return stat is not None and stat.start_ticks == start_ticks and stat.state not in {"Z", "X"}


def send_signal(pid: int, start_ticks: int, number: int = signal.SIGKILL) -> bool:
    """Signal the process that had this pid and start time. False when it is gone.

    The pidfd is opened first and the start time compared after, so a pid that was given to another process in between
    is noticed; kill(2) by number could hit that one.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(pid, start_ticks):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def end_process(pid: int, start_ticks: int, *signals: int, timeout: float) -> None:
    """Send the process that had this pid and start time one signal after another until it has ended.

    It has let go of all that it had open by then. Raise TimeoutError where it outlives each by `timeout` seconds.
    Source: pidfd_open(2), which says when a pidfd is readable.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        for number in signals:
            if not send_signal(pid, start_ticks, number) or poller.poll(timeout * 1000):
                return
    finally:
        os.close(descriptor)
    raise TimeoutError(f"process {pid} does not end")


def list_threads(pid: int) -> dict[int, str]:
    """Thread ids of a process and their names."""
    threads = {}
    for name in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{name}/comm", encoding="utf-8", errors="replace") as file:
                threads[int(name)] = file.read().rstrip("\n")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return threads


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped all of a process's threads: state T of proc(5). Raise OSError for one that ends."""
    states = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/stat", encoding="utf-8", errors="replace") as file:
            states.append(parse_stat(file.read()).state)
    return all(state == "T" for state in states)


def read_boot_id() -> str:
    """The random id that the kernel drew at boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
