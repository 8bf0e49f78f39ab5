"""The nested lab: `main.py build` makes L1, `main.py test [pytest arguments]` runs tests in it.

KATA_TEST_HYPERVISOR lists, with commas, the drivers with which those that are named run.
QEMU without KVM still emulates AMD's SVM, so that its guest, L1, has KVM, vhost-vsock, vhost-net and an IOMMU. Slow,
but real: Cloud Hypervisor and Firecracker run in it. Results go to build/lab and build/lab.json.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from guest.agentvm import build_image  # noqa: E402 - from this tree
from lab.image import build_level1  # noqa: E402
from lab.job import GUEST, TREE, Run, write_job  # noqa: E402
from lab.machine import run_level1  # noqa: E402

_DIRECTORY = TREE / "build/lab"
_REPORT = TREE / "build/lab.json"
_LIFE = ("tests/guest/test_life_cycle.py", "tests/guest/test_stdio.py", "tests/guest/test_network.py")
_RUNS = [
    Run("conformance", ("tests/hypervisor",)),
    *(Run(f"life-{driver}", _LIFE, driver) for driver in ("qemu", "clh", "firecracker")),
]
_LIMIT = 2400
_MARGIN = 120
"""Seconds for L1 to boot, and to hand over what there is."""


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["build"] and len(arguments) == 1:
        print(build_level1().root)
        return 0
    if arguments[:1] == ["test"]:
        return run_tests(choose_runs(arguments[1:], os.environ.get("KATA_TEST_HYPERVISOR", "")) or _RUNS)
    print(__doc__, file=sys.stderr)
    return 2


def choose_runs(arguments: list[str], drivers: str) -> list[Run]:
    """Return a run of these arguments, or one for each of the drivers that are listed with commas; none without any."""
    if not arguments:
        return []
    runs = [Run(f"life-{driver}", tuple(arguments), driver) for driver in drivers.split(",") if driver]
    return runs or [Run("chosen", tuple(arguments))]


def run_tests(runs: list[Run]) -> int:
    """Run tests in L1, twice where L1 itself hung; return 0 when none failed."""
    level1 = build_level1()
    shutil.rmtree(_DIRECTORY, ignore_errors=True)
    _DIRECTORY.mkdir(parents=True)
    stage = _DIRECTORY / "stage"
    make = ["make", "--no-print-directory", "-C", str(TREE), "install-code", f"DESTDIR={stage}"]
    subprocess.run(make, check=True, timeout=300)
    for debug in (False, True):
        build_image(stage / GUEST, debug=debug)
    job = _DIRECTORY / "job.tar"
    write_job(job, stage, runs, limit=_LIMIT)
    for attempt in (1, 2):
        outcome = run_level1(level1, job, _DIRECTORY, timeout=_LIMIT + _MARGIN)
        if outcome.finished and outcome.status >= 0:
            break
        kept = (_DIRECTORY / "console.log").rename(_DIRECTORY / f"console-{attempt}.log")
        print(f"L1 did not come to its end (attempt {attempt}): see {kept}", file=sys.stderr)
    else:
        return 1
    job.unlink()
    shutil.rmtree(stage)
    log = _DIRECTORY / "results/log"
    print(log.read_text(errors="replace"))
    drivers = count_results(sorted((_DIRECTORY / "results").glob("junit-*.xml")))
    _REPORT.write_text(json.dumps({"drivers": drivers}, indent=1) + "\n")
    for row in drivers:
        print(" ".join(f"{key}={value}" for key, value in row.items()))
    return outcome.status


def count_results(reports: list[Path]) -> list[dict[str, Any]]:
    """Return a row for each driver: the suite's tests have it in their ids, and a whole run in its name."""
    rows: dict[str, dict[str, Any]] = {}
    for report in reports:
        run = re.fullmatch(r"junit-life-(\w+)\.xml", report.name)
        for case in ET.parse(report).getroot().iter("testcase"):
            flavour = re.search(r"\[(\w+)", case.get("name", ""))
            name = run[1] if run else flavour[1] if flavour else ""
            row = rows.setdefault(name, {"driver": name, "version": "", "passed": 0, "failed": 0, "skipped": 0})
            versions = [str(item.get("value")) for item in case.iter("property") if item.get("name") == "version"]
            row["version"] = row["version"] or (versions[0] if versions else "")
            figures = {item.get("name"): item.get("value") for item in case.iter("property")}
            if "booted" in figures:
                print(f"{name}: {figures}")
            bad = case.find("failure") is not None or case.find("error") is not None
            row["failed" if bad else "skipped" if case.find("skipped") is not None else "passed"] += 1
    return list(rows.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
