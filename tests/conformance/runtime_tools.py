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
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from conformance import results  # noqa: E402 - found by the line above when this is run as a program
from conformance.tap import parse_tap  # noqa: E402

MODULE = "github.com/opencontainers/runtime-tools"
VERSION = "v0.9.1-0.20251205004911-5e639034dcdc"
SUITE = "oci-runtime-tools"
TITLE = "OCI runtimes: runtime-tools"
CACHE = Path(os.environ.get("KATA_CACHE", "/var/cache/kata-containers")) / "runtime-tools" / VERSION
EXPLAINED = Path(__file__).with_suffix(".toml")
CASE_TIMEOUT = 180.0
_ERROR = re.compile(r'"error": "(.*?)",?$', re.MULTILINE)


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
            results.record_skip(SUITE, runtime, "there is no such program")
            failures += 1
            continue
        chosen = [p for p in programs if not options.only or p.name in options.only]
        found = run_cases(chosen, path, options.jobs)
        failures += results.report(SUITE, Path(path).name, found, explained)
        if not options.only:
            results.record(SUITE, Path(path).name, found)
    if not options.only:
        introduction = (
            f"The cases are the validation programs of `{MODULE}` at\n`{VERSION}`,"
            f" run on {platform.system()} {platform.release().split('-')[0]}, {platform.machine()}."
        )
        results.write_section(SUITE, TITLE, introduction, explained)
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


def run_cases(programs: list[Path], runtime: str, jobs: int) -> list[results.Result]:
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        found = []
        for result in pool.map(lambda program: run_case(program, runtime), programs):
            print(f"{result.outcome:8} {result.seconds:6.1f} s  {result.case}  {result.why}"[:200], flush=True)
            found.append(result)
    return found


def run_case(program: Path, runtime: str) -> results.Result:
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


def judge(case: str, output: str, code: int, late: str, seconds: float) -> results.Result:
    """Say what a program's output means: some print test points, some only the error that they found."""
    points = parse_tap(output)
    bad = [p for p in points if not p.ok]
    good = sum(p.ok and not p.skipped for p in points)
    error = _ERROR.search(output)
    why = late
    if bad:
        why = why or f"{bad[0].text}: {bad[0].why}".strip(" :")
    elif not points and error:
        why = why or error[1].split("\\n")[0]
    elif code:
        tail = [line for line in output.splitlines() if line.strip() and not line.startswith(("ok", "1.."))]
        why = why or (tail[-1].strip() if tail else f"exit code {code}")
    outcome = "failed" if bad or why else "passed" if good or not points else "skipped"
    return results.Result(case, outcome, why, round(seconds, 1))


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
    folder = results.BUILD / SUITE / runtime
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{case}.tap").write_text(output)


if __name__ == "__main__":
    sys.exit(main())
