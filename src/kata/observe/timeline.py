"""The phases of a sandbox's life, timed: what `kata-runtime timeline` shows."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from kata.sys.file import replace_file

_FIRST = 32
"""How many phases are kept from the beginning: the sandbox's own start, and that of its first containers."""

_MOST = 128
"""How many are kept in all. A pod may have thousands of containers in its life."""


class Phase(NamedTuple):
    """A span. `start_ms` counts from the start of the timeline, `ms` is its length; both in milliseconds.

    `failed` tells that it ended with an error.
    """

    name: str
    start_ms: float
    ms: float
    failed: bool = False


class Timeline:
    """Records the first and the last phases and keeps them in a file, so that they can be read after a crash too."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._zero = time.monotonic()
        self._began = time.time()
        self.phases: list[Phase] = []
        self.current = "idle"

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time the block as the phase `name`. `current` names the innermost phase under way, also in a failure."""
        before, self.current = self.current, name
        start = time.monotonic()
        failed = True
        try:
            yield
            self.current = before
            failed = False
        finally:
            now = time.monotonic()
            self.phases.append(Phase(name, (start - self._zero) * 1e3, (now - start) * 1e3, failed))
            if len(self.phases) > _MOST:
                del self.phases[_FIRST]

    def write(self) -> None:
        rows: list[dict[str, Any]] = []
        for phase in self.phases:
            rows.append({"phase": phase.name, "start_ms": round(phase.start_ms, 1), "ms": round(phase.ms, 1)})
            if phase.failed:
                rows[-1]["failed"] = True
        replace_file(self._path, json.dumps({"began": self._began, "phases": rows}))


def read_phases(path: str) -> list[Phase]:
    """Read what `Timeline.write` wrote, in order of start. A missing file is an empty timeline."""
    if not os.path.exists(path):
        return []
    with open(path) as file:
        rows = json.load(file)["phases"]
    phases = [Phase(row["phase"], row["start_ms"], row["ms"], row.get("failed", False)) for row in rows]
    return sorted(phases, key=lambda phase: phase.start_ms)
