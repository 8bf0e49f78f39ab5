"""Run the OCI's runtime validation against a runtime, and say in docs/conformance.md what passed.

    runtime_tools.py [--jobs N] [--only CASE…] RUNTIME…

The validation programs come from the Go module github.com/opencontainers/runtime-tools at a pinned version; they are
built into ${KATA_CACHE:-/var/cache/kata-containers}/runtime-tools and nothing of them is kept in this tree. Needs root
and Go 1.21 or newer. The exit code is 1 when a case fails that runtime_tools.toml does not explain.
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from conformance.tap import parse_tap  # noqa: E402 - found by the line above when this is run as a program

MODULE = "github.com/opencontainers/runtime-tools"
VERSION = "v0.9.1-0.20251205004911-5e639034dcdc"
SUITE = "oci-runtime-tools"
CACHE = Path(os.environ.get("KATA_CACHE", "/var/cache/kata-containers")) / "runtime-tools" / VERSION
BUILD = ROOT / "build"
DOCUMENT = ROOT / "docs" / "conformance.md"
EXPLAINED = Path(__file__).with_suffix(".toml")
CASE_TIMEOUT = 180.0
_ERROR = re.compile(r'"error": "(.*?)",?$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Result:
    """What one validation program said. `outcome` is passed, failed or skipped; `seconds` its duration."""

    case: str
    outcome: str
    passed: int
    failed: int
    skipped: int
    why: str
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runtimes", nargs="+", metavar="RUNTIME", help="name or path of an OCI runtime")
    parser.add_argument("--jobs", type=int, default=1, help="cases at once (default 1)")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="run these cases only, write no document")
    options = parser.parse_args(arguments)
    programs = build_programs()
    explained = tomllib.loads(EXPLAINED.read_text())
    failures = 0
    for runtime in options.runtimes:
        path = shutil.which(runtime)
        if path is None:
            print(f"{runtime}: no such program, its column stays as it was", file=sys.stderr)
            failures += 1
            continue
        chosen = [p for p in programs if not options.only or p.name in options.only]
        results = run_cases(chosen, path, options.jobs)
        failures += report(Path(path).name, results, explained)
        if not options.only:
            record(Path(path).name, results)
    if not options.only:
        write_document(explained)
    return 1 if failures else 0


def build_programs() -> list[Path]:
    """Return the validation programs, built once into the cache with what they expect in their working directory."""
    programs = CACHE / "programs"
    if not (CACHE / "complete").exists():
        if shutil.which("go") is None:
            raise SystemExit("runtime_tools: Go is missing (apt-get install golang-go, 1.21 or newer)")
        shutil.rmtree(CACHE, ignore_errors=True)
        source = CACHE / "source"
        source.mkdir(parents=True)
        (source / "go.mod").write_text("module conformance\n\ngo 1.21\n")
        _go(source, "get", f"{MODULE}@{VERSION}")
        tree = Path(_go(source, "list", "-m", "-f", "{{.Dir}}", MODULE).strip())
        cases = sorted(d.name for d in (tree / "validation").iterdir() if d.is_dir() and d.name != "util")
        _go(source, "build", "-o", f"{programs}/", *(f"{MODULE}/validation/{case}" for case in cases))
        _go(source, "build", "-o", str(CACHE / "runtimetest"), f"{MODULE}/cmd/runtimetest", CGO_ENABLED="0")
        for archive in tree.glob("rootfs-*.tar.gz"):
            shutil.copy(archive, CACHE / archive.name)
        (CACHE / "complete").touch()
    return sorted(programs.iterdir())


def _go(cwd: Path, command: str, *arguments: str, **env: str) -> str:
    mod = () if command == "get" else ("-mod=mod",)
    done = subprocess.run(
        ["go", command, *mod, *arguments],
        cwd=cwd,
        env=os.environ | env,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=900,
    )
    if done.returncode:
        raise SystemExit(f"runtime_tools: go {command} failed with {done.returncode}")
    return done.stdout


def run_cases(programs: list[Path], runtime: str, jobs: int) -> list[Result]:
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        results = []
        for result in pool.map(lambda program: run_case(program, runtime), programs):
            print(f"{result.outcome:8} {result.seconds:6.1f} s  {result.case}  {result.why}"[:200], flush=True)
            results.append(result)
    return results


def run_case(program: Path, runtime: str) -> Result:
    """Run one program in a scratch directory of its own, kill it after CASE_TIMEOUT seconds, leave nothing behind."""
    began = time.monotonic()
    with _scratch_directory() as scratch:
        process = subprocess.Popen(
            [program],
            cwd=CACHE,
            env=os.environ | {"RUNTIME": runtime, "TMPDIR": scratch},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        late = ""
        try:
            output, _ = process.communicate(timeout=CASE_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            late = f"no end within {CASE_TIMEOUT:g} s"
        _delete_containers(runtime, scratch)
    _keep_output(Path(runtime).name, program.name, output)
    return judge(program.name, output, process.returncode, late, time.monotonic() - began)


@contextlib.contextmanager
def _scratch_directory() -> Iterator[str]:
    """Yield a new directory; then unmount what a case left mounted in it, and remove it."""
    scratch = tempfile.mkdtemp(prefix="oci-")
    try:
        yield scratch
    finally:
        with open("/proc/self/mounts", encoding="utf-8") as table:
            points = [line.split()[1] for line in table]
        for point in reversed([p for p in points if p.startswith(f"{scratch}/")]):
            subprocess.run(["umount", "--lazy", point], check=False, timeout=30)
        shutil.rmtree(scratch, ignore_errors=True)


def judge(case: str, output: str, code: int, late: str, seconds: float) -> Result:
    """Say what a program's output means: some print test points, some only the error that they found."""
    points = parse_tap(output)
    bad = [p for p in points if not p.ok]
    good = sum(p.ok and not p.skipped for p in points)
    skipped = sum(p.skipped for p in points)
    error = _ERROR.search(output)
    why = late
    if bad:
        why = why or f"{bad[0].text}: {bad[0].why}".strip(" :")
    elif not points and error:
        why = why or error[1].split("\\n")[0]
    elif code:
        tail = [line for line in output.splitlines() if line.strip() and not line.startswith(("ok", "1.."))]
        why = why or (tail[-1].strip() if tail else f"exit code {code}")
    failed = len(bad) or bool(why)
    if not points and not why:
        good = 1
    outcome = "failed" if failed else "passed" if good else "skipped"
    return Result(case, outcome, good, int(failed), skipped, why, round(seconds, 1))


def _delete_containers(runtime: str, scratch: str) -> None:
    """Delete what a case left; a runtime without `list` is taken at its word."""
    with contextlib.suppress(subprocess.SubprocessError, ValueError, OSError):
        done = subprocess.run([runtime, "list", "--format", "json"], capture_output=True, check=True, timeout=30)
        for container in json.loads(done.stdout) or []:
            if str(container.get("bundle", "")).startswith(scratch):
                subprocess.run(
                    [runtime, "delete", "--force", container["id"]], capture_output=True, check=False, timeout=60
                )


def _keep_output(runtime: str, case: str, output: str) -> None:
    folder = BUILD / SUITE / runtime
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{case}.tap").write_text(output)


def report(runtime: str, results: list[Result], explained: dict[str, dict[str, str]]) -> int:
    """Print the count and the unexplained failures; return how many those are."""
    failed = [r for r in results if r.outcome == "failed"]
    unexplained = [r for r in failed if not find_reason(explained, r.case, runtime)]
    counts = {o: sum(r.outcome == o for r in results) for o in ("passed", "failed", "skipped")}
    print(f"{SUITE} with {runtime}: " + ", ".join(f"{n} {o}" for o, n in counts.items()))
    for result in unexplained:
        print(f"  unexplained: {result.case}: {result.why}")
    return len(unexplained)


def find_reason(explained: dict[str, dict[str, str]], case: str, runtime: str) -> str:
    own = explained.get("vm" if runtime.startswith("kata") else "host", {})
    return own.get(case) or explained.get("suite", {}).get(case, "")


def record(runtime: str, results: list[Result]) -> None:
    """Write the cases of this runtime, and replace its row in build/conformance.json."""
    BUILD.mkdir(exist_ok=True)
    (BUILD / SUITE / f"{runtime}.json").write_text(json.dumps([asdict(r) for r in results], indent=1))
    table = BUILD / "conformance.json"
    rows = json.loads(table.read_text()) if table.exists() else []
    rows = [r for r in rows if (r["suite"], r["runtime"]) != (SUITE, runtime)]
    counts = {o: sum(r.outcome == o for r in results) for o in ("passed", "failed", "skipped")}
    rows.append({"suite": SUITE, "runtime": runtime, **counts})
    table.write_text(json.dumps(rows, indent=1) + "\n")


def write_document(explained: dict[str, dict[str, str]]) -> None:
    found = {
        path.stem: {r["case"]: r for r in json.loads(path.read_text())}
        for path in sorted((BUILD / SUITE).glob("*.json"), key=lambda p: (not p.stem.startswith("kata"), p.stem))
    }
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text("\n".join(_lines(found, explained)) + "\n")


def _lines(found: dict[str, dict[str, dict[str, str]]], explained: dict[str, dict[str, str]]) -> Iterable[str]:
    yield "# Conformance"
    yield ""
    yield "Written by `make conformance`; do not edit."
    yield f"The cases are the validation programs of `{MODULE}` at `{VERSION}`,"
    yield f"run on {platform.system()} {platform.release().split('-')[0]}, {platform.machine()}."
    yield "The columns of other runtimes show what this host allows: it may lack a capability or a cgroup controller."
    yield ""
    for runtime, cases in found.items():
        counts = {o: sum(r["outcome"] == o for r in cases.values()) for o in ("passed", "failed", "skipped")}
        yield f"- `{runtime}`: " + ", ".join(f"{n} {o}" for o, n in counts.items())
    yield ""
    yield "| case | " + " | ".join(f"`{runtime}`" for runtime in found) + " | why not |"
    yield "|---|" + "---|" * (len(found) + 1)
    for case in sorted({case for cases in found.values() for case in cases}):
        outcomes = [cases[case]["outcome"] if case in cases else "not run" for cases in found.values()]
        reasons = [
            find_reason(explained, case, runtime)
            for runtime, outcome in zip(found, outcomes, strict=True)
            if outcome != "passed"
        ]
        yield f"| {case} | " + " | ".join(outcomes) + f" | {'; '.join(dict.fromkeys(r for r in reasons if r))} |"


if __name__ == "__main__":
    sys.exit(main())
