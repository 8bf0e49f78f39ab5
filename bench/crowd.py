"""Many containers at once, each in a VM of its own: how long until each says a word, and what they cost in memory."""

import os
import selectors
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.memory import measure_container
from bench.runtime import Runtime, name_container

_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class Crowd:
    """`starts` has the seconds from the command to the first output, of each; `memory` MB of each, by process."""

    starts: tuple[float, ...]
    memory: dict[str, float]


def measure_crowd(runtime: Runtime, bundle: Path, count: int) -> Crowd:
    """Run `count` containers at the same time; the bundle's says a word and stays. Raise RuntimeError for a failure."""
    names = [name_container() for _ in range(count)]
    with _run_all(runtime, bundle, names) as processes:
        starts = tuple(_wait_for_words(processes))
        shares = [measure_container(runtime, name) for name in names]
    kinds = {kind for share in shares for kind in share}
    return Crowd(starts, {kind: sum(share.get(kind, 0.0) for share in shares) / count for kind in sorted(kinds)})


@contextmanager
def _run_all(runtime: Runtime, bundle: Path, names: Sequence[str]) -> "Iterator[dict[subprocess.Popen[bytes], float]]":
    """Start all, yield them with the moments of their starts, and delete them whatever happened."""
    processes: dict[subprocess.Popen[bytes], float] = {}
    try:
        for name in names:
            command = runtime.build_command("run", "--bundle", str(bundle), name)
            began = time.monotonic()
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            processes[process] = began
        yield processes
    finally:
        for name in names:
            subprocess.run(runtime.build_command("delete", "--force", name), check=False, timeout=_TIMEOUT)
        for process in processes:
            process.communicate(timeout=_TIMEOUT)


def _wait_for_words(processes: "dict[subprocess.Popen[bytes], float]") -> Iterator[float]:
    with selectors.DefaultSelector() as selector:
        for process, began in processes.items():
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ, began)
        end = time.monotonic() + _TIMEOUT
        while selector.get_map():
            ready = selector.select(end - time.monotonic())
            if not ready:
                raise RuntimeError(f"{len(selector.get_map())} of {len(processes)} containers said no word in time")
            for key, _ in ready:
                if not os.read(key.fd, 4096):
                    raise RuntimeError(f"one of {len(processes)} containers ended without a word")
                yield time.monotonic() - key.data
                selector.unregister(key.fileobj)
