"""The phases of a sandbox's life, timed: what `kata-runtime timeline` shows."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from kata.sys.file import replace_file

_FIRST = 32
"""How many phases are kept from the beginning: the sandbox's own start, and that of its first containers."""

_MOST = 128
"""How many are kept in all. A pod may have thousands of containers in its life."""


class Phase(NamedTuple):
    """A span. `start_ms` counts from the start of the timeline, `ms` is its length; both in milliseconds.

    `failed` tells that it ended with an error, `in_guest` that the agent timed it.
    """

    name: str
    start_ms: float
    ms: float
    failed: bool = False
    in_guest: bool = False


class Timeline:
    """Records the first and the last phases and keeps them in a file, so that they can be read after a crash too."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.zero = time.monotonic()
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
            self.phases.append(Phase(name, (start - self.zero) * 1e3, (now - start) * 1e3, failed))
            if len(self.phases) > _MOST:
                del self.phases[_FIRST]

    def remark(self, text: str) -> None:
        """Note a moment that took no time."""
        self.phases.append(Phase(text, (time.monotonic() - self.zero) * 1e3, 0.0))

    def describe(self, others: Iterable[Phase] = ()) -> str:
        """Return the phases, and `others` after them, as JSON that `parse_phases` reads."""
        rows: list[dict[str, Any]] = []
        for phase in (*self.phases, *others):
            rows.append({"phase": phase.name, "start_ms": round(phase.start_ms, 1), "ms": round(phase.ms, 1)})
            if phase.failed:
                rows[-1]["failed"] = True
            if phase.in_guest:
                rows[-1]["in_guest"] = True
        return json.dumps({"began": self._began, "phases": rows})

    def write(self) -> None:
        replace_file(self._path, self.describe())


def parse_phases(text: str) -> list[Phase]:
    """Read what `Timeline.describe` returned, in order of start."""
    phases = [
        Phase(row["phase"], row["start_ms"], row["ms"], row.get("failed", False), row.get("in_guest", False))
        for row in json.loads(text)["phases"]
    ]
    return sorted(phases, key=lambda phase: phase.start_ms)


def read_phases(path: str) -> list[Phase]:
    """Read what `Timeline.write` wrote, in order of start. A missing file is an empty timeline."""
    try:
        with open(path) as file:
            return parse_phases(file.read())
    except FileNotFoundError:
        return []
