"""What an idle sandbox costs in memory: every process on the host, and the agent in the guest."""

import re
from pathlib import Path

from bench.guest import read_agent_metrics
from bench.runtime import Runtime, create_container, list_children
from kata.sandbox.store import find_sandbox_dir

_MEGABYTE = 1e6
_RSS = re.compile(r"^kata_agent_total_rss ([0-9.e+]+)$", re.MULTILINE)


def measure_sandbox(runtime: Runtime, bundle: Path) -> dict[str, float]:
    """Return the proportional set size of each process of a sandbox whose one container sleeps, in MB, and the sum.

    Source: proc(5), /proc/PID/smaps_rollup.
    """
    with create_container(runtime, bundle) as container:
        runtime.call("start", container)
        return measure_container(runtime, container)


def measure_container(runtime: Runtime, container: str) -> dict[str, float]:
    """Do the same of a container that runs."""
    found: dict[str, float] = {}
    for pid in _list_processes(find_sandbox_dir(str(runtime.root), container), container):
        name = _name(pid)
        found[name] = found.get(name, 0.0) + read_pss(pid)
    return {**found, "sandbox": sum(found.values())}


def _list_processes(directory: str, container: str) -> list[int]:
    """Find the daemon with its children, and the stand-in: whoever names the sandbox or serves it."""
    roots = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            words = _read_words(int(entry.name))
            if container in words and ("serve" in words or "create" in words or "run" in words):
                roots.append(int(entry.name))
    if not roots:
        raise RuntimeError(f"no process serves {directory}")
    return sorted({pid for root in roots for pid in list_children(root)})


def _read_words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _name(pid: int) -> str:
    words = _read_words(pid)
    program = words[0].rpartition("/")[2]
    if program.startswith("python3"):
        return "daemon" if "serve" in words else "stand_in"
    return "qemu" if program.startswith("qemu-system") else program


def read_pss(pid: int) -> float:
    """Return a process's proportional set size in MB. Source: proc(5), /proc/PID/smaps_rollup."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / _MEGABYTE
    return 0.0


def measure_agent(directory: Path) -> float:
    """Return the agent's resident memory in the guest, in MB, right after its start."""
    found = _RSS.search(read_agent_metrics(directory))
    if found is None:
        raise RuntimeError("the agent's metrics do not say its resident memory")
    return float(found[1]) / _MEGABYTE
