"""A child process under an event loop: descriptors passed, last words kept, its end seen through a pidfd.

asyncio's own subprocess support waits in a thread per child before Python 3.12, and cannot tell who else reaped it.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from kata.errors import DeadlineError, HostError
from kata.protocol.text import clean_text
from kata.sys.process import read_start_ticks
from kata.transport.boundedlog import BoundedLog

_TAIL = 8192
_READ = 65536
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class Ending(NamedTuple):
    """How a process ended: its exit status, or minus the number of the signal that killed it, and its last words."""

    returncode: int
    stderr: str = ""

    def describe(self) -> str:
        """Say it as the rest of a sentence: exited with status 1: <last words>."""
        if self.returncode < 0:
            how = f"was killed by signal {-self.returncode}"
        else:
            how = f"exited with status {self.returncode}"
        return f"{how}: {self.stderr}" if self.stderr else how


class Child:
    """A process that this process started and owns. Use from one event loop."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: BoundedLog | None) -> None:
        self.name = name
        self.pid = process.pid
        self.start_ticks = read_start_ticks(process.pid) or 0
        self._process = process
        self._log = log
        self._tail = bytearray()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Ending] = self._loop.create_future()
        assert process.stderr is not None
        self._stderr = process.stderr.fileno()
        os.set_blocking(self._stderr, False)
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._stderr, self._drain)
        self._loop.add_reader(self._pidfd, self._reap)

    @property
    def ending(self) -> Ending | None:
        """How it ended, or None while it runs."""
        return self._ended.result() if self._ended.done() else None

    def read_stderr(self) -> str:
        """The end of what it wrote to standard error until now, without what a terminal obeys.

        A program that serves a guest quotes it.
        """
        if self._stderr >= 0:
            self._drain()
        return clean_text(self._tail.decode(errors="replace"), keep="\n\t").strip()

    def _drain(self) -> None:
        """Read what is there, a bounded amount, so that a chattering child cannot hold the loop."""
        for _ in range(16):
            try:
                data = os.read(self._stderr, _READ)
            except BlockingIOError:
                return
            if not data:
                self._close_stderr()
                return
            self._tail += data
            del self._tail[:-_TAIL]
            if self._log is not None:
                self._log.write(data)

    def _close_stderr(self) -> None:
        if self._stderr >= 0:
            self._loop.remove_reader(self._stderr)
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._stderr = -1

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        returncode = self._process.wait()
        stderr = self.read_stderr()
        # A grandchild may hold the pipe open for ever; what the child itself said is read.
        self._close_stderr()
        self._ended.set_result(Ending(returncode, stderr))

    async def wait(self) -> Ending:
        """Wait for its end. Any number of callers; cancelling one does not disturb the others."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        """Signal it. Nothing happens when it has ended."""
        if not self._ended.done():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def stop(self, *, grace: float = 0.0, timeout: float = 10.0) -> Ending:
        """End it: SIGTERM and `grace` seconds to obey, then SIGKILL and `timeout` seconds to vanish.

        Raise DeadlineError when the kernel does not let go of it (stuck in a device or a network file system).
        """
        if grace > 0:
            self.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                return await asyncio.wait_for(self.wait(), grace)
        self.send_signal(signal.SIGKILL)
        try:
            return await asyncio.wait_for(self.wait(), timeout)
        except TimeoutError as error:
            raise DeadlineError(f"{self.name} (process {self.pid}) did not end {timeout:g} s after SIGKILL") from error


def start_child(
    name: str,
    argv: Sequence[str],
    *,
    descriptors: Sequence[int] = (),
    cwd: str = "/",
    log: BoundedLog | None = None,
    output: int = subprocess.DEVNULL,
) -> Child:
    """Start a program. Descriptors keep their numbers in the child; standard input is /dev/null, and `output` too.

    `name` is what errors call it. Standard error goes to `log`, and its end into `Ending`. Raise HostError.
    """
    try:
        # Popen without preexec_fn uses vfork: no copy of our page tables, and no Python code between fork and exec.
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            pass_fds=tuple(descriptors),
            cwd=cwd,
            env=_ENVIRONMENT,
        )
    except OSError as error:
        raise HostError(f"{name} did not start: {error}", hint=f"check that {argv[0]} can be run") from error
    return Child(name, process, log)
