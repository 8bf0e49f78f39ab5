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
_SOURCE = _HERE.parents[2] / "src"
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
        self.launcher.write_text(_LAUNCHER.format(source=str(_SOURCE), here=str(_HERE)))
        self.launcher.chmod(0o755)

    def command(self, *words: str) -> list[str]:
        return [str(self.launcher), "--root", str(self.root), *words]

    def run(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Its output goes to files, as a stand-in that it leaves behind keeps the streams."""
        out, err = self.directory / "stdout", self.directory / "stderr"
        with out.open("w") as stdout, err.open("w") as stderr:
            done = subprocess.run(
                self.command(*words),
                check=False,
                timeout=30,
                **({} if "input" in more else {"stdin": subprocess.DEVNULL}),
                **{"stdout": stdout, "stderr": stderr, "text": True, **more},
            )
        return subprocess.CompletedProcess(done.args, done.returncode, out.read_text(), err.read_text())

    def succeed(self, *words: str, **more: Any) -> str:
        done = self.run(*words, **more)
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
        self._wait(lambda: self.find_state(container)["status"] == status, f"{container} to be {status}")

    def wait_for_file(self, path: Path) -> None:
        self._wait(path.exists, str(path))

    def wait_for_end(self, pid: int) -> None:
        self._wait(lambda: not _is_running(pid), f"process {pid} to end")

    @staticmethod
    def _wait(true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 15
        while not true():
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.01)

    def kill_daemon(self, sandbox: str) -> None:
        """Kill the daemon of a sandbox, which is the process that has its lock."""
        lock = os.stat(self.root / "sandboxes" / sandbox / "lock")
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[5].rpartition(":")[2] == str(lock.st_ino):
                os.kill(int(fields[4]), signal.SIGKILL)
                self.wait_for_end(int(fields[4]))
                return
        raise AssertionError(f"no daemon holds the lock of {sandbox}")

    def read_seen(self, bundle: Path) -> list[Any]:
        """Return what the service noted, in order."""
        return [json.loads(line) for line in (bundle / "seen").read_text().splitlines()]


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
