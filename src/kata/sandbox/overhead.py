"""What a pod costs the host beyond what its containers use: two metrics that upstream has."""

import asyncio
import re
import time
from typing import NamedTuple

from kata.protocol.exposition import Family, make_gauge
from kata.protocol.messages import agent as wire
from kata.sandbox.vm import SandboxVm
from kata.sys.procfs import Process, read_figures

_PSS = re.compile(r"^Pss: +(\d+) kB$", re.MULTILINE)
_NANOSECONDS = 1e9


class Use(NamedTuple):
    """Processor time so far in seconds, and memory in bytes."""

    seconds: float
    memory: float


class Overhead:
    """Compares the host's processes of a sandbox with its containers, and each scrape with the one before.

    Upstream waits a second in each scrape instead.
    """

    def __init__(self) -> None:
        self._moment = 0.0
        self._host = Use(0.0, 0.0)
        self._containers: dict[str, Use] = {}

    def compare(self, moment: float, host: Use, containers: dict[str, Use]) -> tuple[float, float]:
        """Return percent of one CPU since the call before, and bytes now. `moment` is in seconds, of any clock.

        At first "before" is the beginning of all counters, and `moment` has to count from there.
        """
        elapsed = moment - self._moment
        # A container that is gone takes its counter along: only those that are there count, each from its last figure.
        inside = sum(use.seconds - self._find_before(name, use) for name, use in containers.items())
        percent = (host.seconds - self._host.seconds - inside) / elapsed * 100 if elapsed > 0 else 0.0
        self._moment, self._host, self._containers = moment, host, containers
        return max(percent, 0.0), max(host.memory - sum(use.memory for use in containers.values()), 0.0)

    def _find_before(self, name: str, use: Use) -> float:
        before = self._containers.get(name, Use(0.0, 0.0)).seconds
        return before if before <= use.seconds else 0.0  # another container of the same name


async def measure_overhead(
    overhead: Overhead, vm: SandboxVm, processes: dict[int, Process], containers: list[str], *, timeout: float
) -> list[Family]:
    """Return the metrics of a running VM. Raise KataError when the guest does not tell its part.

    `processes` are the sandbox's on the host, by pid.
    """
    answers = await asyncio.gather(*(vm.guest.stat_container(name, timeout=timeout) for name in containers))
    inside = {name: _read_container(answer) for name, answer in zip(containers, answers, strict=True)}
    host = Use(
        sum((one.stat["utime"] + one.stat["stime"]) / one.ticks for one in processes.values()),
        sum(_read_pss(pid) for pid in processes),
    )
    began = min(one.started_at for one in processes.values())
    percent, memory = overhead.compare(time.time() - began, host, inside)
    return [
        make_gauge("kata_shim_pod_overhead_cpu", "Kata Pod overhead for CPU resources(percent).", percent),
        make_gauge("kata_shim_pod_overhead_memory_in_bytes", "Kata Pod overhead for memory resources(bytes).", memory),
    ]


def _read_container(answer: wire.StatsContainerResponse) -> Use:
    stats = answer.cgroup_stats or wire.CgroupStats()
    cpu = stats.cpu_stats.cpu_usage if stats.cpu_stats is not None else None
    memory = stats.memory_stats.usage if stats.memory_stats is not None else None
    return Use((cpu.total_usage if cpu else 0) / _NANOSECONDS, memory.usage if memory else 0)


def _read_pss(pid: int) -> float:
    """Return a process's share of memory in bytes. The guest's memory, which QEMU and virtiofsd map, counts once."""
    found = _PSS.search(read_figures(f"/proc/{pid}/smaps_rollup"))
    return int(found[1]) * 1024.0 if found else 0.0
