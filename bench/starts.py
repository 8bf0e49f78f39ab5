"""Starts of all kinds by turns, and clones by the dozen."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.bundle import make_bundle
from bench.crowd import measure_crowd
from bench.floor import Setup, prepare_floor, time_boot, time_restore
from bench.guest import build_initrd, time_bare_init
from bench.pool import close_pool, open_pool, time_pool
from bench.runtime import Runtime, create_container, find_peers, time_first_output
from kata.observe.timeline import read_phases
from kata.sandbox.store import find_sandbox_dir

Samples = dict[str, list[float]]

_TYPICAL = 10
"""The crowd whose memory is held against the aim."""

_PROJECT = Path(__file__).resolve().parent.parent


def measure_starts(
    directory: Path, kata: Runtime, runc: Runtime, runs: int, samples: Samples
) -> tuple[Setup, dict[str, str]]:
    """Measure one start after the other, of each kind by turns, and what of it is QEMU's own.

    Return the configurations, and which peers were not measured, with the reason.
    """
    initrd = build_initrd(directory)
    bundle = make_bundle(directory / "word", ("sh", "-c", "echo word"))
    setup = prepare_floor(directory, _PROJECT / "src/kata")
    cold, clone = (replace(kata, options=("--config", str(path))) for path in (setup.cold, setup.clone))
    clone.call("factory", "init")
    pool = open_pool(kata, setup.clone)
    staying = make_bundle(directory / "staying", ("sh", "-c", "echo word; exec sleep 1000"))
    peers, absent = find_peers(directory, bundle, kata)
    for number in range(runs):
        print(f"starts: {number + 1} of {runs}", file=sys.stderr, flush=True)
        samples["bare_init"].append(time_bare_init(directory, initrd))
        samples["bare_boot"].append(time_boot(directory, setup))
        floor = time_restore(directory, setup)
        samples["floor_answer"].append(floor.answer)
        samples["floor_process"].append(floor.process)
        samples["floor"].append(floor.answer + floor.process)
        samples["cold"].append(time_first_output(cold, bundle))
        samples["clone"].append(time_first_output(clone, bundle))
        pooled = time_pool(pool, staying)
        samples["pool"].append(pooled.whole)
        samples["pool_beyond_creation"].append(pooled.beyond)
        for phase, seconds in pooled.phases.items():
            samples[f"pool: {phase}"].append(seconds)
        for peer in (runc, *peers):
            samples[peer.name].append(time_first_output(peer, bundle))
        for kind, runtime in (("cold", cold), ("clone", clone)):
            for phase, seconds in _time_phases(runtime, bundle).items():
                samples[f"{kind}: {phase}"].append(seconds)
    close_pool(pool)
    return setup, absent


def _time_phases(runtime: Runtime, bundle: Path) -> dict[str, float]:
    """Return what one more start spends its time on: `run` leaves no timeline, so this one is made in steps."""
    with create_container(runtime, bundle) as container:
        runtime.call("start", container)
        phases = read_phases(f"{find_sandbox_dir(str(runtime.root), container)}/timeline.json")
    return {phase.name: phase.ms / 1e3 for phase in phases}


def measure_crowds(
    directory: Path, kata: Runtime, setup: Setup, sizes: Sequence[int], samples: Samples
) -> dict[str, float]:
    """Start clones at once, in crowds of each size; return the memory of one of them, by process and size."""
    bundle = make_bundle(directory / "crowd", ("sh", "-c", "echo word; exec sleep 1000"))
    clone = replace(kata, options=("--config", str(setup.clone)))
    memory: dict[str, float] = {}
    for size in sizes:
        print(f"clones at once: {size}", file=sys.stderr, flush=True)
        crowd = measure_crowd(clone, bundle, size)
        samples[f"clone_of_{size}"] += crowd.starts
        memory |= {f"{name}_of_{size}": value for name, value in crowd.memory.items()}
    # What containerd's pod has too: not the command that waits.
    of = f"_of_{_TYPICAL if _TYPICAL in sizes else max(sizes)}"
    memory["clone_host_pss"] = memory[f"sandbox{of}"] - memory[f"stand_in{of}"]
    return memory
