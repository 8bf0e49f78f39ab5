"""Run the suite of tests/posixfs on the host and on a volume in containers, and show both in docs/conformance.md.

    filesystem.py [--only GROUP…] RUNTIME…

The directory is a bind mount, as a volume is. Needs root and gcc. The exit code is 1 when a case fails in a container
that filesystem.toml does not explain.
"""

import argparse
import json
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
from conformance.tap import parse_tap  # noqa: E402
from kata.protocol.oci.default import make_spec  # noqa: E402
from posixfs.build import build_suite  # noqa: E402

SUITE = "posixfs"
TITLE = "POSIX: volumes of the host in containers"
HOST = "host"
EXPLAINED = Path(__file__).with_suffix(".toml")
CAPABILITIES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD"),
    *("CAP_SETFCAP", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_ADMIN"),
)
"""What the cases need that check what root may do."""

_TIMEOUT = 900.0
_INTRODUCTION = """The cases are those of tests/posixfs, on a directory of the host (ext4): there, and in a container
that has it as a bind mount, which with a VM is virtio-fs. The word before the colon is the system call, or what the
case is about."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runtimes", nargs="+", metavar="RUNTIME", help="name or path of an OCI runtime")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="GROUP", help="run these groups only, write no document"
    )
    options = parser.parse_args(arguments)
    explained = tomllib.loads(EXPLAINED.read_text())
    failures = 0
    with tempfile.TemporaryDirectory(prefix="kata-posixfs-", dir="/var/tmp") as name:
        place = Path(name)
        program = build_suite(place)
        for runtime in (HOST, *options.runtimes):
            path = shutil.which(runtime) if runtime != HOST else HOST
            if path is None:
                results.record_skip(SUITE, runtime, "there is no such program")
                failures += 1
                continue
            command = run_on_host if runtime == HOST else run_in_container
            found = read_results(command(path, place / Path(path).name, program, options.only))
            failures += results.report(SUITE, Path(path).name, found, explained)
            if not options.only:
                results.record(SUITE, Path(path).name, found)
    if not options.only:
        results.write_section(SUITE, TITLE, _INTRODUCTION, explained)
    return 1 if failures else 0


def run_on_host(_: str, place: Path, program: Path, groups: list[str]) -> str:
    """Return what the suite says of a directory of the host."""
    volume = place / "volume"
    volume.mkdir(parents=True)
    return _run([str(program), str(volume), *groups])


def run_in_container(runtime: str, place: Path, program: Path, groups: list[str]) -> str:
    """Return what the suite says in a container that has a directory of the host as a volume."""
    volume, bundle = place / "volume", place / "bundle"
    for folder in (volume, *(bundle / "rootfs" / name for name in ("dev", "proc", "sys", "volume"))):
        folder.mkdir(parents=True)
    shutil.copy(program, bundle / "rootfs/posixfs")
    spec = make_spec(["/posixfs", "/volume", *groups], terminal=False, readonly=False)
    change_spec(spec, volume)
    (bundle / "config.json").write_text(json.dumps(spec))
    return _run([runtime, "run", "--bundle", str(bundle), f"posixfs-{place.parent.name}"])


def change_spec(spec: dict[str, Any], volume: Path) -> None:
    """Give a container the volume, and root the rights that the cases need."""
    kinds = ("bounding", "effective", "permitted")
    spec["process"]["capabilities"] = {kind: list(CAPABILITIES) for kind in kinds}
    spec["process"].pop("rlimits", None)
    mount = {"destination": "/volume", "type": "bind", "source": str(volume), "options": ["rbind", "rw"]}
    spec["mounts"].append(mount)


def read_results(output: str) -> list[results.Result]:
    """Return the cases of a run. Raise SystemExit for one that did not come to its end."""
    points = parse_tap(output)
    if f"1..{len(points)}" not in output.splitlines() or not points:
        raise SystemExit(f"filesystem: the suite did not come to its end: {output[-500:]}")
    return [
        results.Result(point.text, "skipped" if point.skipped else "passed" if point.ok else "failed", point.why, 0.0)
        for point in points
    ]


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False, timeout=_TIMEOUT
    )
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main())
