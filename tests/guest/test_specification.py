"""The promises of SPECIFICATION.md about starts and memory, measured as the benchmark does it."""

import statistics
from collections import defaultdict
from pathlib import Path

import pytest

from bench.floor import Setup
from bench.runtime import Runtime, find_runtimes
from bench.starts import measure_crowds, measure_starts
from engine import Engine
from kata.sandbox.template import list_templates

_RUNS = 3
_CROWD = 8


@pytest.fixture(scope="module")
def kata(engine: Engine) -> Runtime:
    return Runtime("kata", str(engine.launcher), engine.root)


@pytest.fixture(scope="module")
def measured(engine: Engine, kata: Runtime) -> tuple[Setup, dict[str, list[float]]]:
    """Starts of all kinds, by turns, and the configurations that they had."""
    samples: dict[str, list[float]] = defaultdict(list)
    directory = engine.directory / "bench"
    directory.mkdir()
    return measure_starts(directory, kata, find_runtimes(directory)[1], _RUNS, samples)[0], samples


@pytest.mark.timeout(400)
def test_starts_keep_their_promises(measured: tuple[Setup, dict[str, list[float]]]) -> None:
    seconds = {name: statistics.median(values) for name, values in measured[1].items()}

    assert seconds["clone"] <= 3.5 * seconds["floor"], seconds
    assert seconds["clone"] <= 0.4 * seconds["cold"], seconds
    assert seconds["pool"] <= 0.6 * seconds["clone"], seconds
    assert seconds["cold"] <= 1.4 * seconds["bare_boot"], seconds


@pytest.mark.timeout(400)
def test_clones_that_start_at_once_all_start_and_stay_small(
    measured: tuple[Setup, dict[str, list[float]]], kata: Runtime, tmp_path: Path
) -> None:
    setup, _ = measured
    samples: dict[str, list[float]] = defaultdict(list)
    memory = measure_crowds(tmp_path, kata, setup, [_CROWD], samples)

    assert len(samples[f"clone_of_{_CROWD}"]) == _CROWD
    held = list_templates(str(setup.templates))[0].size
    own = (memory[f"sandbox_of_{_CROWD}"] - memory[f"stand_in_of_{_CROWD}"]) * 1e6 - held
    assert own <= 45e6, (memory, held)
