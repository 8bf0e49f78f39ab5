"""The nested lab: `main.py build` makes L1, `main.py test [RUN...]` makes runs of tests in it: all, or those named.

`main.py test PYTEST-ARGUMENTS` runs others; KATA_TEST_HYPERVISOR lists, with commas, the drivers to run them with.
QEMU without KVM still emulates AMD's SVM, so that its guest, L1, has KVM, vhost-vsock, vhost-net and an IOMMU. Slow,
but real: Cloud Hypervisor and Firecracker run in it. Results go to build/lab and build/lab.json.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from cprogram import LAB_PROGRAMS, compile_all  # noqa: E402 - from this tree
from guest.agentvm import build_image  # noqa: E402
from lab.image import Level1, build_level1  # noqa: E402
from lab.job import GUEST, REPORT, TREE, Run, write_job  # noqa: E402
from lab.machine import FOOTPRINT_MIB, run_level1  # noqa: E402

_DIRECTORY = TREE / "build/lab"
_REPORT = TREE / "build/lab.json"
_LIFE = "tests/guest/test_life_cycle.py"
_WIRES = ("tests/guest/test_stdio.py", "tests/guest/test_network.py")
_VOLUMES = tuple(f"tests/guest/test_{name}.py" for name in ("volumes", "disk_roots", "direct_volumes", "scratch"))
_CLONES = "tests/guest/test_clone.py"
_COLLECTED = ("tests/faults/test_kill_matrix.py", "-k", "test_clone or gc_removes")
_AGENT_ANSWERS = "tests/hypervisor/test_conformance.py::test_the_agent_answers_over_the_best_channel"
_RUNS = (
    Run("conformance", ("tests/lab/test_accelerator.py", "tests/hypervisor")),
    Run("figures", (_AGENT_ANSWERS, "tests/lab/test_figures.py")),
    *(Run(f"life-{driver}", (_LIFE,), driver) for driver in ("qemu", "microvm", "clh", "firecracker")),
    *(Run(f"wires-{driver}", _WIRES, driver) for driver in ("qemu", "clh", "firecracker")),
    Run("clones-qemu", (_CLONES,), "qemu"),
    *(Run(f"clones-{driver}", (_CLONES, *_COLLECTED), driver) for driver in ("clh", "firecracker")),
    *(Run(f"volumes-{driver}", (*_VOLUMES, "tests/guest/test_passthrough.py"), driver) for driver in ("qemu", "clh")),
    Run("volumes-firecracker", _VOLUMES, "firecracker"),
    Run("containerd", ("tests/containerd/test_runtimes.py", "tests/cri/test_runtime_classes.py")),
    Run("containerd-qemu", ("tests/containerd/test_ctr.py", "tests/containerd/test_stdio.py"), "qemu"),
)
_LIMIT = 2400
_MARGIN = 120
"""Seconds for L1 to boot, and to hand over what there is."""


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["build"] and len(arguments) == 1:
        print(build_level1().root)
        return 0
    if arguments[:1] == ["test"]:
        return run_tests(choose_runs(arguments[1:], os.environ.get("KATA_TEST_HYPERVISOR", "")))
    print(__doc__, file=sys.stderr)
    return 2


def choose_runs(arguments: list[str], drivers: str) -> list[Run]:
    """Return the runs of these names, all without any; or one of these arguments for each of the drivers."""
    known = {run.name: run for run in _RUNS}
    if all(name in known for name in arguments):
        return [known[name] for name in arguments] or list(_RUNS)
    runs = [Run(f"chosen-{driver}", tuple(arguments), driver) for driver in drivers.split(",") if driver]
    return runs or [Run("chosen", tuple(arguments))]


def run_tests(runs: list[Run]) -> int:
    """Make each run in an L1 of its own, some side by side; return 0 when none failed."""
    level1 = build_level1()
    _DIRECTORY.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_DIRECTORY) as place:
        stage = make_stage(Path(place) / "stage")
        with ThreadPoolExecutor(count_machines(len(runs))) as machines:
            passed = list(machines.map(lambda run: make_run(run, level1, stage), runs))
    known = [run for run in _RUNS if (_DIRECTORY / run.name).exists()]
    are_known = set(runs) <= set(_RUNS)
    drivers = count_results(known if are_known else runs)
    if are_known:
        _REPORT.write_text(json.dumps({"drivers": drivers}, indent=1) + "\n")
    for row in drivers:
        print(" ".join(f"{key}={value}" for key, value in row.items()))
    failed = [run.name for run, is_good in zip(runs, passed, strict=True) if not is_good]
    if failed:
        print(f"FAILED: {', '.join(failed)}; see {_DIRECTORY}", file=sys.stderr)
    return 1 if failed else 0


def make_stage(stage: Path) -> Path:
    """Install this tree below a directory, with the guest's images and the programs of containers."""
    make = ["make", "--no-print-directory", "-C", str(TREE), "install-code", f"DESTDIR={stage}"]
    subprocess.run(make, check=True, timeout=300)
    for debug in (False, True):
        build_image(stage / GUEST, debug=debug)
    for path in (stage / GUEST).glob("*-initrd*"):  # nothing there starts from them
        path.unlink()
    compile_all(stage / LAB_PROGRAMS)
    return stage


def count_machines(most: int) -> int:
    """Return how many L1s this machine has room for: `most` at most."""
    available = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert available is not None
    return max(1, min(most, len(os.sched_getaffinity(0)), (int(available[1]) >> 10) // FOOTPRINT_MIB))


def make_run(run: Run, level1: Level1, stage: Path) -> bool:
    """Boot L1 for one run, twice where L1 itself hung; say whether all its tests passed."""
    directory = _DIRECTORY / run.name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    job = directory / "job.tar"
    write_job(job, stage, run, limit=_LIMIT)
    for attempt in (1, 2):
        print(f"== {run.name} begins", flush=True)
        began = time.monotonic()
        outcome = run_level1(level1, job, directory, timeout=_LIMIT + _MARGIN)
        if outcome.finished and outcome.status >= 0:
            break
        kept = (directory / "console.log").rename(directory / f"console-{attempt}.log")
        print(f"L1 did not come to its end (attempt {attempt}): see {kept}", file=sys.stderr)
    else:
        return False
    job.unlink()
    log = (directory / "results/log").read_text(errors="replace")
    print(f"== {run.name}, {time.monotonic() - began:.0f} s\n{log}", flush=True)
    return outcome.status == 0


def count_results(runs: list[Run]) -> list[dict[str, Any]]:
    """Return a row for each driver: a run's, or else the one that a test has in its id."""
    rows: dict[str, dict[str, Any]] = {}

    def find_row(name: str) -> dict[str, Any]:
        return rows.setdefault(name, {"driver": name, "version": "", "passed": 0, "failed": 0, "skipped": 0})

    for run in runs:
        report = _DIRECTORY / run.name / "results" / REPORT
        if not report.exists():  # it ran out of time, or L1 hung
            find_row(run.driver or run.name)["failed"] += 1
            continue
        for case in ET.parse(report).getroot().iter("testcase"):
            flavour = re.search(r"\[(\w+)", case.get("name", ""))
            name = run.driver or (flavour[1] if flavour else "")
            row = find_row(name)
            figures = {str(item.get("name")): str(item.get("value")) for item in case.iter("property")}
            row["version"] = row["version"] or figures.pop("version", "")
            if figures.keys() - {"version"}:
                print(f"{name} {case.get('name')}: {figures}")
            bad = case.find("failure") is not None or case.find("error") is not None
            row["failed" if bad else "skipped" if case.find("skipped") is not None else "passed"] += 1
    return list(rows.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
