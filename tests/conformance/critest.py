"""Run Kubernetes' validation of the CRI against containerd with a handler, and say in docs/conformance.md what passed.

    critest.py [--focus PATTERN] HANDLER…          HANDLER is kata or runc
    critest.py --report FILE HANDLER               take the JSON report of a run that was made by hand

tools/build-peer builds critest, and tests/peers.py says where it is looked for. Its images are made of Debian
packages and come from a registry on loopback. Everything runs in mount and network namespaces of its own. Needs root.
A spec that takes longer than _SPEC_TIMEOUT is interrupted and counts as failed; those that it kept from running are run
after it. The exit code is 1 when a spec fails that critest.toml does not explain, and 77 when critest or what it needs
is missing.
"""

import argparse
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from conformance import results  # noqa: E402 - found by the line above when this is run as a program
from cri.daemon import CriDaemon, find_missing  # noqa: E402
from cri.images import add_base_images, add_critest_images  # noqa: E402
from engine import build_image  # noqa: E402
from netns import enter_network_namespace  # noqa: E402
from peers import find_program  # noqa: E402
from registry import Registry  # noqa: E402

SUITE = "critest"
EXPLAINED = Path(__file__).with_suffix(".toml")
TITLE = "Kubernetes' CRI: critest"
_CALL_TIMEOUT = "120s"
_RUN_TIMEOUT = "2h"
_SPEC_TIMEOUT = 300
"""Seconds. The longest that passes takes a minute and a half on an emulated VM."""

_MOST_RUNS = 10
INTERRUPTED = 3
"""The exit code of a run that was ended because of a spec; critest itself has 0, 1 and 2."""

_LATE = b"Automatically polling progress"
"""What Ginkgo prints of a spec that takes longer than --ginkgo.poll-progress-after."""

_CLONE_NEWNS = 0x20000
_IGNORED = "benchmark"
_PREFIX = "[k8s.io] "


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("handlers", nargs="+", metavar="HANDLER", choices=("kata", "runc"))
    parser.add_argument("--focus", metavar="PATTERN", help="run the specs whose name matches only, write no document")
    parser.add_argument("--report", type=Path, metavar="FILE", help="read this report, run nothing")
    options = parser.parse_args(arguments)
    reasons = tomllib.loads(EXPLAINED.read_text())
    program = find_program("cri-tools", "critest")
    if options.report is None and (program is None or find_missing()):
        wanted = [*find_missing(), *([] if program else ["critest (run tools/build-peer cri-tools)"])]
        for handler in options.handlers:
            results.record_skip(SUITE, handler, f"missing {', '.join(wanted)}")
        return results.NOT_RUN
    failures = 0
    for handler in options.handlers:
        reports = [options.report] if options.report else run_specs(str(program), handler, options.focus)
        found = merge_reports([read_report(report) for report in reports])
        failures += results.report(SUITE, handler, found, reasons)
        if not options.focus:
            results.record(SUITE, handler, found)
    if not options.focus:
        introduction = (
            "containerd 2.4.2 with the handler `kata`, and with `runc` on the same host. Images are built from Debian\n"
            "packages; the host lacks CAP_SYS_RESOURCE and AppArmor, has cgroup v1, and runs VMs without KVM. Reasons\n"
            "in brackets are sections of upstream's docs/Limitations.md."
        )
        results.write_section(SUITE, TITLE, introduction, reasons)
    return 1 if failures else 0


def run_specs(program: str, handler: str, focus: str | None) -> list[Path]:
    """Run critest in a child, for the namespaces that it needs, until each spec has run. Return the reports' paths."""
    folder = results.BUILD / SUITE
    folder.mkdir(parents=True, exist_ok=True)
    reports: list[Path] = []
    place = Path(tempfile.mkdtemp(prefix="kata-k-"))
    try:
        image = build_image(place)
        while len(reports) < _MOST_RUNS:
            report = folder / f"{handler}-report-{len(reports)}.ginkgo"
            report.unlink(missing_ok=True)
            done = [
                result.case for earlier in reports for result in read_report(earlier) if result.outcome != "skipped"
            ]
            daemon = CriDaemon(place / f"d{len(reports)}", image, _add_images)
            child = os.fork()
            if child == 0:
                os._exit(
                    _run_in_namespaces(daemon, [program, *_list_flags(program, daemon, handler, report, focus, done)])
                )
            interrupted = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == INTERRUPTED
            if not report.exists():
                raise SystemExit(f"critest: no report of the run with {handler} was written")
            reports.append(report)
            if not interrupted:
                break
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return reports


def _add_images(registry: Registry, place: Path) -> None:
    add_base_images(registry, place)
    add_critest_images(registry, place)


def knows_nri(program: str) -> bool:
    """Return whether this critest has the specs of the Node Resource Interface: those of 1.36.0 and before have not."""
    shown = subprocess.run([program, "-h"], capture_output=True, text=True, check=False, timeout=60)
    return "-nri-socket" in shown.stdout + shown.stderr


def _list_flags(
    program: str, daemon: CriDaemon, handler: str, report: Path, focus: str | None, done: list[str]
) -> list[str]:
    """Return critest's flags; the specs `done` are not run."""
    return [
        *(f"--{kind}-endpoint={daemon.address}" for kind in ("runtime", "image")),
        f"--runtime-handler={handler}",
        *([f"--nri-socket={daemon.place}/nri.sock"] if knows_nri(program) else []),
        f"--runtime-service-timeout={_CALL_TIMEOUT}",
        f"--ginkgo.timeout={_RUN_TIMEOUT}",
        f"--ginkgo.json-report={report}",
        "--ginkgo.no-color",
        f"--ginkgo.poll-progress-after={_SPEC_TIMEOUT}s",
        *([f"--ginkgo.focus={focus}"] if focus else []),
        *(f"--ginkgo.skip={re.escape(case).replace('/', '.')}$" for case in done),
    ]


def _run_in_namespaces(daemon: CriDaemon, command: list[str]) -> int:
    """Run `command` beside the daemon, where mounts propagate as on a host that systemd started."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "a mount namespace cannot be made")
    for propagation in ("rprivate", "rshared"):
        subprocess.run(["mount", f"--make-{propagation}", "/"], check=True, timeout=30)
    with enter_network_namespace(), daemon:
        return run_watched(command, daemon.place)


def run_watched(command: list[str], place: Path) -> int:
    """Run critest in the directory `place` and return its exit code, or INTERRUPTED when a spec took too long.

    Ginkgo then ends that spec, cleans up, and writes its report; it is killed when it does not.
    """
    with subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
            if _LATE in line:
                process.send_signal(signal.SIGINT)
                output, _ = _finish(process)
                sys.stdout.buffer.write(output)
                sys.stdout.flush()
                return INTERRUPTED
    return process.returncode


def _finish(process: "subprocess.Popen[bytes]") -> tuple[bytes, bytes]:
    try:
        return process.communicate(timeout=_SPEC_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate(timeout=_SPEC_TIMEOUT)


def merge_reports(reports: list[list[results.Result]]) -> list[results.Result]:
    """Return each spec once, as in the first report in which it ran."""
    merged: dict[str, results.Result] = {}
    for result in (result for report in reports for result in report):
        if result.case not in merged or merged[result.case].outcome == "skipped":
            merged[result.case] = result
    return [merged[case] for case in sorted(merged)]


def read_report(path: Path) -> list[results.Result]:
    """Return the specs of Ginkgo's JSON report, without the benchmarks; a spec that did not run is not there."""
    [suite] = json.loads(path.read_text())
    specs = [spec for spec in suite["SpecReports"] if spec["LeafNodeType"] == "It"]
    found = [_read_spec(spec) for spec in specs]
    return sorted((result for result in found if _IGNORED not in result.case), key=lambda result: result.case)


def _read_spec(spec: dict[str, Any]) -> results.Result:
    name = " ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]]).removeprefix(_PREFIX)
    outcome = spec["State"] if spec["State"] in ("passed", "skipped") else "failed"
    why = " ".join((spec.get("Failure") or {}).get("Message", "").split())
    return results.Result(name.replace("|", "/"), outcome, why[:300], round(spec["RunTime"] / 1e9, 1))


if __name__ == "__main__":
    sys.exit(main())
