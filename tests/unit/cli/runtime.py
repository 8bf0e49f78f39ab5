"""A `kata-runtime` whose sandboxes run processes of this host, and bundles for it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kata.protocol.oci.default import make_spec

_HERE = Path(__file__).parent
SOURCE = _HERE.parents[2] / "src"
_LAUNCHER = """#!/usr/bin/python3 -IS
import sys
sys.path[:0] = [{source!r}, {here!r}]
import host_service
sys.exit(host_service.main())
"""


class Runtime:
    """The command line under test, with a state directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "root"
        self.launcher = directory / "kata-runtime"
        self.launcher.write_text(_LAUNCHER.format(source=str(SOURCE), here=str(_HERE)))
        self.launcher.chmod(0o755)

    def command(self, *words: str) -> list[str]:
        return [str(self.launcher), "--root", str(self.root), *words]

    def run(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end with `given` as its input.

        Its streams are files, as a stand-in that it leaves behind keeps them.
        """
        paths = [self.directory / name for name in ("stdin", "stdout", "stderr")]
        paths[0].write_text(given)
        with paths[0].open() as stdin, paths[1].open("w") as stdout, paths[2].open("w") as stderr:
            command = self.command(*words)
            done = subprocess.run(command, check=False, timeout=60, stdin=stdin, stdout=stdout, stderr=stderr)
        return subprocess.CompletedProcess(command, done.returncode, paths[1].read_text(), paths[2].read_text())

    def succeed(self, *words: str, given: str = "") -> str:
        done = self.run(*words, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def find_state(self, container: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.succeed("state", container))
        return state

    def make_bundle(self, args: list[str], *, terminal: bool = False, **more: Any) -> Path:
        bundle = self.directory / f"bundle-{len(list(self.directory.glob('bundle-*')))}"
        (bundle / "rootfs").mkdir(parents=True)
        spec = make_spec(args, terminal=terminal) | more
        (bundle / "config.json").write_text(json.dumps(spec))
        return bundle

    def wait_for_status(self, container: str, status: str) -> None:
        self.wait(lambda: self.find_state(container)["status"] == status, f"{container} to be {status}")

    def wait_for_file(self, path: Path) -> None:
        self.wait(path.exists, str(path))

    def wait_for_end(self, pid: int) -> None:
        self.wait(lambda: not _is_running(pid), f"process {pid} to end")

    @staticmethod
    def wait(true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 15
        while not true():
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.01)

    def kill_daemon(self, sandbox: str) -> None:
        """Kill the daemon of a sandbox, found by its command line."""
        wanted = ["--root", str(self.root), "serve", "--sandbox", sandbox]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _holds(_read_command_line(entry), wanted):
                pid = int(entry.name)
                assert pid > 1
                os.kill(pid, signal.SIGKILL)
                self.wait_for_end(pid)
                return
        raise AssertionError(f"no daemon serves {sandbox}")

    def read_seen(self, bundle: Path) -> list[Any]:
        """Return what the service noted, in order."""
        return [json.loads(line) for line in (bundle / "seen").read_text().splitlines()]


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _read_command_line(entry: Path) -> list[str]:
    try:
        return (entry / "cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _holds(words: list[str], wanted: list[str]) -> bool:
    """Say whether all of `wanted` are among the words, in their order."""
    rest = iter(words)
    return all(word in rest for word in wanted)
