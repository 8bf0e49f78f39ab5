"""The time that a container sees. KATA_DRIFT is the number of seconds for which it is watched."""

import os
import subprocess
import time
from typing import NamedTuple

import pytest

from engine import Engine

_WATCHED = float(os.environ.get("KATA_DRIFT", "5"))
_BETWEEN = min(30.0, _WATCHED)
_WANTED = 0.05
_READ_CLOCK = "while read line; do adjtimex; done"
_READINGS = 6


class Reading(NamedTuple):
    """How many seconds the guest is ahead, and by how many that may be wrong."""

    uncertainty: float
    ahead: float


def _read(process: "subprocess.Popen[bytes]") -> Reading:
    assert process.stdin is not None
    assert process.stdout is not None
    before = time.time()
    process.stdin.write(b"\n")
    process.stdin.flush()
    shown: dict[str, str] = {}
    while "return value" not in shown:
        key, _, value = process.stdout.readline().decode().partition(":")
        shown[key.strip()] = value
    after = time.time()
    seconds = int(shown["time.tv_sec"]) + int(shown["time.tv_usec"]) / 1e6
    return Reading((after - before) / 2, seconds - (before + after) / 2)


@pytest.mark.timeout(_WATCHED * 2 + 120)
def test_a_container_sees_the_time_of_the_host(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    container = engine.name("clock")
    bundle = engine.make_bundle(container, ["sh", "-c", _READ_CLOCK])
    readings = []
    with engine.start("run", "--bundle", str(bundle), container) as process:
        end = time.monotonic() + _WATCHED
        while True:
            readings.append(min(_read(process) for _ in range(_READINGS)))
            if time.monotonic() >= end:
                break
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(_BETWEEN)
        process.communicate(timeout=60)
    with capsys.disabled():
        first, last, worst = (f"{reading.ahead * 1e3:+.1f}" for reading in (readings[0], readings[-1], _find(readings)))
        print(f"\nguest's clock over {_WATCHED:g} s, ms ahead: first {first}, last {last}, furthest {worst}")
    assert all(abs(reading.ahead) <= _WANTED + reading.uncertainty for reading in readings), readings


def _find(readings: list[Reading]) -> Reading:
    return max(readings, key=lambda reading: abs(reading.ahead))
