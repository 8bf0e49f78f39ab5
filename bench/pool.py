"""Starts from the pool: VMs that waited, and what such a start costs beyond the container's creation in the guest."""

import os
import re
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from bench.runtime import Runtime, name_container
from kata.observe.timeline import read_phases
from kata.sandbox.keeper import list_members
from kata.sandbox.store import find_sandbox_dir

WAITING = 1
_TIMEOUT = 120.0
_SPAN = re.compile(r"^guest +(?:CreateContainer|StartContainer) +[\d.]+ +([\d.]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PoolStart:
    """Seconds from the command to the first output, those of them beyond the creation, and those of each phase."""

    whole: float
    beyond: float
    phases: dict[str, float]


def open_pool(kata: Runtime, configuration: Path) -> Runtime:
    """Have VMs of a configuration wait, and return the runtime that takes them. `close_pool` ends it."""
    path = configuration.with_name("pool.toml")
    path.write_text(configuration.read_text().replace("[factory]", f"[factory]\nvm_cache_number = {WAITING}"))
    pool = replace(kata, root=kata.root.with_name("pool"), options=("--config", str(path)))
    pool.call("factory", "init")
    return pool


def close_pool(pool: Runtime) -> None:
    """End what waits. The templates stay: they are others' too."""
    path = Path(pool.options[1])
    path.write_text(path.read_text().replace(f"vm_cache_number = {WAITING}", "vm_cache_number = 0"))
    pool.call("factory", "init")


def time_pool(pool: Runtime, bundle: Path) -> PoolStart:
    """Time one start; the bundle's container says a word and stays. Wait until a VM waits before, and after.

    Raise RuntimeError where none was taken.
    """
    _wait_until_full(pool)
    name = name_container()
    command = pool.build_command("run", "--bundle", str(bundle), name)
    began = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            os.read(process.stdout.fileno(), 4096)
            whole = time.monotonic() - began
            phases = read_phases(f"{find_sandbox_dir(str(pool.root), name)}/timeline.json")
            told = subprocess.run(pool.build_command("timeline", name), check=True, capture_output=True, text=True)
        finally:
            pool.call("delete", "--force", name)
    spans = _SPAN.findall(told.stdout)
    if "taken from the pool" not in told.stdout or len(spans) != 2:
        raise RuntimeError(f"no VM was taken from the pool, or its guest tells nothing:\n{told.stdout}")
    _wait_until_full(pool)
    inside = sum(float(milliseconds) for milliseconds in spans) / 1e3
    return PoolStart(whole, whole - inside, {phase.name: phase.ms / 1e3 for phase in phases})


def _wait_until_full(pool: Runtime) -> None:
    """Wait until the VM that takes the taken one's place is there, so that its start disturbs no other measurement."""
    deadline = time.monotonic() + _TIMEOUT
    while len(list_members(str(pool.root))) < WAITING:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the pool at {pool.root} does not fill")
        time.sleep(0.1)
