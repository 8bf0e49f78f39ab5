"""Run the tests that drive an engine of others with this runtime, and count them in build/conformance.json.

    engines.py [ENGINE…]          the folders of tests/ that SUITES names; all that exist by default

Each is a run of pytest; a test that cannot be run for want of a peer counts as skipped, and says so. The exit code is 1
when a test fails, or a run ends without a report. Needs root, and what `make install` installs.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from conformance import results  # noqa: E402 - found by the line above when this is run as a program

RUNTIME = "kata"
SUITES = {
    "podman": "podman",
    "containerd": "ctr",
    "cri": "crictl",
    "crio": "cri-o",
    "nerdctl": "nerdctl",
    "docker": "docker",
}
"""The name of each suite by its folder."""

_RUN_TIMEOUT = 7200.0
_NO_TEST = 5
"""pytest's exit code when it found no test to run: also that of a folder whose only module is skipped."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("engines", nargs="*", metavar="ENGINE", choices=[*SUITES, []], help=f"of {', '.join(SUITES)}")
    options = parser.parse_args(arguments)
    failures = 0
    for engine in options.engines or SUITES:
        folder = ROOT / "tests" / engine
        if not folder.is_dir():
            results.record_skip(SUITES[engine], RUNTIME, f"there is no {folder}")
            continue
        failures += run_suite(SUITES[engine], folder)
    return 1 if failures else 0


def run_suite(suite: str, folder: Path) -> int:
    """Run the tests of a folder, record what came of each, and return how many failed."""
    report = results.BUILD / suite / "junit.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", str(folder), f"--junit-xml={report}"]
    code = subprocess.run(command, cwd=ROOT, check=False, timeout=_RUN_TIMEOUT).returncode
    if not report.exists():
        found = [results.Result(suite, "failed", f"pytest ended with {code} and wrote no report", 0.0)]
    else:
        found = list(read_report(report))
        if code not in (0, _NO_TEST) and not any(result.outcome == "failed" for result in found):
            found.append(results.Result(suite, "failed", f"pytest ended with {code}", 0.0))
    results.record(suite, RUNTIME, found)
    return results.report(suite, RUNTIME, found, {})


def read_report(path: Path) -> Iterator[results.Result]:
    """Yield each test of a report in JUnit's form, as pytest writes it, once: an error of its fixture is a failure."""
    worst: dict[str, results.Result] = {}
    for test in ET.parse(path).getroot().iter("testcase"):
        result = _read_test(test)
        known = worst.get(result.case)
        if known is None or known.outcome == "passed":
            worst[result.case] = result
    yield from worst.values()


def _read_test(test: ET.Element) -> results.Result:
    case = f"{test.get('classname', '')}.{test.get('name', '')}"
    bad = next((found for kind in ("failure", "error") if (found := test.find(kind)) is not None), None)
    skipped = test.find("skipped")
    outcome = "failed" if bad is not None else "skipped" if skipped is not None else "passed"
    reason = bad if bad is not None else skipped
    why = " ".join(reason.get("message", "").split())[:300] if reason is not None else ""
    return results.Result(case, outcome, why, round(float(test.get("time", "0")), 1))


if __name__ == "__main__":
    sys.exit(main())
