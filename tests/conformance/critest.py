"""Run Kubernetes' validation of the CRI against containerd with a handler, and say in docs/conformance.md what passed.

    critest.py [--focus PATTERN] HANDLER…          HANDLER is kata or runc
    critest.py --report FILE HANDLER               take the JSON report of a run that was made by hand

critest is on no package registry: tools/build-peer builds it from a checkout of its sources, and tests/peers.py says
where it is looked for. Its images are made of Debian packages and come from a registry on loopback.
Everything runs in mount and network namespaces of its own. Needs root. The exit code is 1 when a spec fails that
critest.toml does not explain.
"""

import argparse
import ctypes
import json
import os
import shutil
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
        wanted = [*find_missing(), *([] if program else ["critest"])]
        print(f"critest: missing {', '.join(wanted)}; the columns stay as they were", file=sys.stderr)
        return 0
    failures = 0
    for handler in options.handlers:
        report = options.report or run_specs(str(program), handler, options.focus)
        found = read_report(report)
        failures += results.report(SUITE, handler, found, reasons)
        if not options.focus:
            results.record(SUITE, handler, found)
    if not options.focus:
        introduction = (
            "containerd 2.4.2 with the handler `kata`, and with `runc` on the same host. Images are built from Debian\n"
            "packages; the host lacks CAP_SYS_RESOURCE and AppArmor, has cgroup v1, and runs VMs without KVM."
        )
        results.write_section(SUITE, TITLE, introduction, reasons)
    return 1 if failures else 0


def run_specs(program: str, handler: str, focus: str | None) -> Path:
    """Run critest in a child, for the namespaces that it needs, and return the path of its report."""
    folder = results.BUILD / SUITE
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / f"{handler}-report.ginkgo"
    report.unlink(missing_ok=True)
    place = Path(tempfile.mkdtemp(prefix="kata-k-"))
    try:
        image = build_image(place)
        daemon = CriDaemon(place / "d", image, _add_images)
        child = os.fork()
        if child == 0:
            os._exit(_run_in_namespaces(daemon, [program, *_list_flags(daemon, handler, report, focus)]))
        os.waitpid(child, 0)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if not report.exists():
        raise SystemExit(f"critest: no report of the run with {handler} was written")
    return report


def _add_images(registry: Registry, place: Path) -> None:
    add_base_images(registry, place)
    add_critest_images(registry, place)


def _list_flags(daemon: CriDaemon, handler: str, report: Path, focus: str | None) -> list[str]:
    return [
        *(f"--{kind}-endpoint={daemon.address}" for kind in ("runtime", "image")),
        f"--runtime-handler={handler}",
        f"--nri-socket={daemon.place}/nri.sock",
        f"--runtime-service-timeout={_CALL_TIMEOUT}",
        f"--ginkgo.timeout={_RUN_TIMEOUT}",
        f"--ginkgo.json-report={report}",
        "--ginkgo.no-color",
        *([f"--ginkgo.focus={focus}"] if focus else []),
    ]


def _run_in_namespaces(daemon: CriDaemon, command: list[str]) -> int:
    """Run `command` beside the daemon, where mounts propagate as on a host that systemd started."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "a mount namespace cannot be made")
    for propagation in ("rprivate", "rshared"):
        subprocess.run(["mount", f"--make-{propagation}", "/"], check=True, timeout=30)
    with enter_network_namespace(), daemon:
        return subprocess.run(command, cwd=daemon.place, check=False).returncode


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
