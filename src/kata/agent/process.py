"""A process of a container: its streams, its signals, its end."""

import asyncio
import os
import signal
import socket

from kata.agent.stdio import Input, Output, Pipes, Terminal
from kata.errors import HostError, StateError


class Process:
    """The container's first process, or one that was executed in it. It owns the agent's ends of the streams."""

    def __init__(self, name: str, streams: "Pipes | Terminal") -> None:
        """`name` says in errors which process this is."""
        self.name = name
        self.pid = 0
        self.stdin: Input = streams.stdin
        self.stdout: Output = streams.stdout
        self.stderr: Output | None = streams.stderr if isinstance(streams, Pipes) else None
        self._streams = streams
        self._exit: asyncio.Future[int] | None = None

    def follow(self, pid: int, status: "asyncio.Future[int]") -> None:
        """Take the process that now runs on the streams."""
        self.pid = pid
        self._exit = status
        status.add_done_callback(self._note_exit)

    def _note_exit(self, _: "asyncio.Future[int]") -> None:
        self.stdout.mark_exited()
        if self.stderr is not None:
            self.stderr.mark_exited()

    @property
    def exited(self) -> bool:
        return self._exit is not None and self._exit.done()

    @property
    def drained(self) -> bool:
        """Whether nobody can read any more from it."""
        return self.stdout.ended and (self.stderr is None or self.stderr.ended)

    async def wait(self) -> int:
        """Wait for the end. Return the exit status, or 128 + the signal that killed it."""
        assert self._exit is not None
        return await asyncio.shield(self._exit)

    async def read(self, size: int, *, error: bool) -> bytes:
        """Output or error output, none at the end. A terminal has no error output of its own."""
        stream = self.stderr if error else self.stdout
        return b"" if stream is None else await stream.read(size)

    def signal(self, number: int) -> bool:
        """Send a signal. False when the process has ended: its number may be another's by now."""
        if self.exited or not self.pid:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        except OSError as error:
            raise HostError(f"signal {number} cannot be sent to {self.name}: {error.strerror}") from error
        return True

    def resize(self, rows: int, columns: int) -> None:
        if not isinstance(self._streams, Terminal):
            raise StateError(f"{self.name} has no terminal")
        self._streams.resize(rows, columns)

    def close_stdin(self) -> None:
        """End standard input. A terminal has no end of its own: the host types end-of-file."""
        if isinstance(self._streams, Pipes):
            self.stdin.close()

    def close(self) -> None:
        """Release the streams."""
        self._streams.close()


def has_handler(pid: int, number: int) -> bool:
    """Whether a process blocks, ignores or catches a signal: /proc/PID/status, proc(5)."""
    bit = 1 << number - 1
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    masks = (line.split()[1] for line in lines if line.startswith(("SigBlk:", "SigIgn:", "SigCgt:")))
    return any(int(mask, 16) & bit for mask in masks)


def choose_signal(pid: int, number: int) -> int:
    """What to send to a container's first process instead of `number`.

    The kernel drops a signal for PID 1 of a namespace that has no handler for it, so a polite SIGTERM would do
    nothing at all.
    """
    if number == signal.SIGTERM and not has_handler(pid, number):
        return signal.SIGKILL
    return number


class ConsoleSocket:
    """Where crun delivers the master of a new terminal."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._sock.bind(path)
        self._sock.listen(1)
        self._sock.setblocking(False)

    def take_master(self) -> int:
        """The descriptor that crun has sent before it ended. The caller owns it."""
        try:
            connection, _ = self._sock.accept()
            with connection:
                connection.setblocking(False)
                _, descriptors, _, _ = socket.recv_fds(connection, 64, 1)
        except BlockingIOError as error:
            raise HostError("crun has not delivered a terminal") from error
        if not descriptors:
            raise HostError("crun has delivered no terminal")
        os.set_inheritable(descriptors[0], False)
        return descriptors[0]

    def close(self) -> None:
        self._sock.close()
        os.unlink(self.path)
