"""What a pod costs the host at one moment: what must not grow with the containers and processes that it has had."""

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path

from containerd.daemon import Containerd

_STATE = Path("/run/kata")
_ANONYMOUS = re.compile(r"^Pss_Anon: +(\d+) kB$", re.MULTILINE)

_SIZES = frozenset({"memory", "state_kib"})


@dataclass(frozen=True, slots=True)
class Footprint:
    """`memory` and `state_kib`, the size of the state files, are in KiB; all others are counts.

    It is the anonymous part of the shim's proportional set size (proc(5), smaps_rollup): its share of Python's files
    changes whenever some other Python of the host starts or ends.
    """

    memory: int
    threads: int
    descriptors: int
    qemu_descriptors: int
    state_files: int
    state_kib: int
    cgroups: int
    mounts: int

    def find_growth(self, before: "Footprint") -> dict[str, int]:
        """Return by how much each count is more than it was."""
        changes = {field.name: getattr(self, field.name) - getattr(before, field.name) for field in fields(self)}
        return {name: change for name, change in changes.items() if change > 0 and name not in _SIZES}


def measure_pod(daemon: Containerd, pod: str) -> Footprint:
    """Look at the pod's shim and QEMU, and at what carries the daemon's token on the host and in the shim's mounts."""
    shim, qemu = daemon.find_shim(pod), daemon.find_process(pod, "qemu-system")
    mounts = Path(f"/proc/{shim}/mountinfo").read_text() + Path("/proc/self/mountinfo").read_text()
    rollup = _ANONYMOUS.search(Path(f"/proc/{shim}/smaps_rollup").read_text())
    assert rollup is not None, "this kernel does not tell Pss_Anon"
    state = [path for path in _STATE.rglob("*") if daemon.token in str(path)]
    return Footprint(
        memory=int(rollup[1]),
        threads=len(os.listdir(f"/proc/{shim}/task")),
        descriptors=len(os.listdir(f"/proc/{shim}/fd")),
        qemu_descriptors=len(os.listdir(f"/proc/{qemu}/fd")),
        state_files=len(state),
        state_kib=sum(path.stat().st_size for path in state if path.is_file()) >> 10,
        cgroups=sum(line.startswith("cgroup: ") for line in daemon.find_traces(daemon.token)),
        mounts=sum(daemon.token in line or pod in line for line in mounts.splitlines()),
    )
