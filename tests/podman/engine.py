"""Podman as a program: run it with the runtime under test, with or without a terminal."""

import os
import pty
import select
import shutil
import subprocess
import termios
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

RUNTIME = os.environ.get("KATA_TEST_RUNTIME", "kata-runtime")
IS_VM = os.path.basename(RUNTIME).startswith("kata")
TIMEOUT = 120.0
# The host's root may lack CAP_SYS_RESOURCE, and Podman asks for more open files than this process may have. In a VM
# the guest's root sets the limits, so nothing is said there.
_LIMITS = () if IS_VM else ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")


@dataclass(frozen=True, slots=True)
class Done:
    """What a command of Podman gave back. `out` is without the last line's end."""

    code: int
    out: str
    err: str


def find_runtime() -> str | None:
    """Return the path of the runtime, or None where it is not installed."""
    return shutil.which(RUNTIME) or shutil.which(RUNTIME, path="/usr/local/bin:/usr/bin:/usr/sbin")


def podman(*words: str, check: bool = True, stdin: str | None = None, timeout: float = TIMEOUT) -> Done:
    """Run Podman with the runtime under test for `timeout` seconds at most; `check` asserts that it succeeds."""
    command = build_command(*words)
    done = subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=timeout, check=False)
    if check:
        assert done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}: {done.stderr}"
    return Done(done.returncode, done.stdout.rstrip("\n"), done.stderr)


def build_command(*words: str) -> list[str]:
    return ["podman", "--runtime", RUNTIME, *words]


def run_words(*words: str) -> list[str]:
    """Return the words of a `podman run` without network, to be continued."""
    return ["run", "--network", "none", *_LIMITS, *words]


def run(*words: str, check: bool = True, stdin: str | None = None) -> Done:
    """`podman run --rm --network none …`."""
    return podman(*run_words("--rm", *words), check=check, stdin=stdin)


@contextmanager
def running(*words: str) -> Iterator[str]:
    """Yield the name of a detached container, and remove it with force."""
    name = f"kata-test-{uuid.uuid4().hex[:12]}"
    try:
        podman(*run_words("-d", "--name", name, *words))
        yield name
    finally:
        podman("rm", "-f", "-t", "1", name, check=False)


class Terminal:
    """A command of Podman, or another, on a terminal of its own, `rows` by `columns`."""

    def __init__(self, *words: str, command: list[str] | None = None, rows: int = 24, columns: int = 80) -> None:
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            command or build_command(*words), stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.seen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(TIMEOUT)
        os.close(self.master)

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.master, (rows, columns))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str, timeout: float = TIMEOUT) -> str:
        """Read until `text` has been shown, and return all shown since the last call. Fail after `timeout` seconds."""
        end = time.monotonic() + timeout
        while text not in self.seen:
            readable, _, _ = select.select([self.master], [], [], max(0.0, end - time.monotonic()))
            assert readable, f"no {text!r} within {timeout:g} s, only {self.seen!r}"
            try:
                data = os.read(self.master, 65536)
            except OSError:  # EIO: the last process has closed the other side
                data = b""
            assert data, f"the terminal closed without {text!r}: {self.seen!r}"
            self.seen += data.decode(errors="replace")
        shown, _, self.seen = self.seen.partition(text)
        return shown + text

    def wait(self) -> int:
        """Return the exit code. What is shown meanwhile is thrown away, lest the process wait for a reader."""
        end = time.monotonic() + TIMEOUT
        while self.process.poll() is None:
            assert time.monotonic() < end, "podman did not end"
            readable, _, _ = select.select([self.master], [], [], 0.1)
            if readable:
                try:
                    self.seen += os.read(self.master, 65536).decode(errors="replace")
                except OSError:
                    return self.process.wait(TIMEOUT)
        return self.process.returncode


def wait_for_log(name: str, text: str, timeout: float = TIMEOUT) -> None:
    """Follow the container's log until `text` is in it. Fail after `timeout` seconds."""
    read_until(build_command("logs", "-f", name), text, timeout)


def read_until(command: list[str], text: str, timeout: float = TIMEOUT) -> None:
    """Run a command that follows something until it has printed `text`. Fail after `timeout` seconds."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as follower:
        assert follower.stdout is not None
        end = time.monotonic() + timeout
        seen = b""
        try:
            while text.encode() not in seen:
                readable, _, _ = select.select([follower.stdout], [], [], max(0.0, end - time.monotonic()))
                assert readable, f"{command} did not say {text!r} within {timeout:g} s, only {seen!r}"
                data = os.read(follower.stdout.fileno(), 65536)
                assert data, f"{command} ended without {text!r}: {seen!r}"
                seen += data
        finally:
            follower.kill()
