"""The host's want of memory: whom its kernel kills for it, and whether it has.

Sources: Documentation/admin-guide/cgroup-v2.rst (memory.events), cgroup-v1/memory.rst (memory.oom_control), proc(5).
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from kata.resources.cgroup import list_hierarchies
from kata.sys.file import read_text

HINT = "raise the pod's memory limit, or overhead.podFixed of its RuntimeClass"
_UNLIMITED = 1 << 62
"""Bytes from which a limit of cgroup v1 is none: it is written as the greatest number of whole pages."""


class _Version(NamedTuple):
    """Files of one version of cgroups: where kills are counted, the limit, and where hitting it is."""

    kills: str
    limit: str
    failures: str


_V1 = _Version("memory.oom_control", "memory.limit_in_bytes", "memory.failcnt")
_V2 = _Version("memory.events", "memory.max", "memory.events.local")


class OomWatch:
    """Says whether the kernel has killed a process of a cgroup for want of memory since this was made."""

    def __init__(self, pid: int | str = "self", hierarchies: Sequence[str] | None = None) -> None:
        """Look at the cgroup of process `pid`. A host without the memory controller never says anything."""
        self._directory, self._root = _find_memory_cgroup(pid, hierarchies)
        self._version = _V1 if os.path.exists(f"{self._directory}/{_V1.kills}") else _V2
        self._before = self._count_kills()

    def _count_kills(self) -> int:
        return _read_count(f"{self._directory}/{self._version.kills}", "oom_kill")

    def explain(self) -> str:
        """Return a sentence that names the cgroup whose limit it was, or none where nothing was killed."""
        if not self._directory or self._count_kills() <= self._before:
            return ""
        directory = self._directory
        while directory != self._root:
            limit = self._find_hit_limit(directory)
            if limit:
                name = directory.removeprefix(self._root)
                return (
                    f"the host killed the VM, because the cgroup {name} has reached its memory limit of {limit} bytes"
                )
            directory = os.path.dirname(directory)
        return "the host killed the VM, because its memory is used up"

    def _find_hit_limit(self, directory: str) -> int:
        limit = read_text(f"{directory}/{self._version.limit}").strip()
        if not limit.isdecimal() or int(limit) >= _UNLIMITED:
            return 0
        failures = f"{directory}/{self._version.failures}"
        return int(limit) if _read_count(failures, "oom" if self._version is _V2 else "") else 0


def _find_memory_cgroup(pid: int | str, hierarchies: Sequence[str] | None) -> tuple[str, str]:
    """Return the directory of a process's memory cgroup and that of its hierarchy's root, empty where there is none."""
    mounts = list_hierarchies() if hierarchies is None else hierarchies
    for line in read_text(f"/proc/{pid}/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        for root in mounts:
            is_unified = number == "0" and os.path.exists(f"{root}/cgroup.controllers")
            is_memory = "memory" in controllers.split(",") and os.path.exists(f"{root}/{_V1.limit}")
            directory = os.path.normpath(f"{root}/{path}")
            if (is_memory or is_unified) and os.path.exists(f"{directory}/{(_V1 if is_memory else _V2).kills}"):
                return directory, root
    return "", ""


def _read_count(path: str, key: str) -> int:
    """Return the number after `key` in a file of such lines; without a key, the file's only number."""
    for line in read_text(path).splitlines():
        words = line.split()
        if words[:-1] == ([key] if key else []):
            return int(words[-1])
    return 0


def set_oom_score(pid: int, score: int) -> None:
    """Say how readily the kernel kills a process, -1000 to 1000.

    One that has ended needs none, and who may not lower a score leaves it as it is.
    """
    with (
        suppress(FileNotFoundError, ProcessLookupError, PermissionError),
        open(f"/proc/{pid}/oom_score_adj", "w") as file,
    ):
        file.write(str(score))
