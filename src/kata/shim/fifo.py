"""A process's stdio as containerd gives it: paths of FIFOs, which any number of clients open and close as they like."""

import asyncio
import os
import stat
from contextlib import suppress

from kata.errors import HostError, UnsupportedError
from kata.sandbox.attach import Controlled
from kata.sandbox.stdio import Endpoint, Stdio

_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class LateInput(Endpoint):
    """Standard input that is opened when the process is started, not before.

    The FIFO's opening releases the client, which copies its input and then asks for CloseIO. ctr can ask that only once
    Create or Exec has been answered; a client that is released earlier never does, and the input has no end.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._opened = asyncio.Event()
        self._held: list[int] = []
        self._ending = False
        self._socket = None
        self._asks_first = False
        self._waiting = None
        self._closed = False

    def open(self) -> None:
        """Open the FIFO on both sides: a client that leaves does not end the input. Raise HostError."""
        self._descriptor = _open(self._path, os.O_RDONLY)
        self._held.append(self._descriptor)
        if stat.S_ISFIFO(os.fstat(self._descriptor).st_mode) and not self._ending:
            self._held.append(_open(self._path, os.O_WRONLY))
        self._opened.set()

    def end(self) -> None:
        """Let the input end when what was written is read and no client is left."""
        self._ending = True
        for descriptor in self._held[1:]:
            os.close(descriptor)
        del self._held[1:]

    async def read(self) -> bytes:
        await self._opened.wait()
        return await super().read()

    def close(self) -> None:
        held, self._held = self._held, []
        for descriptor in held[1:]:
            os.close(descriptor)
        if held:
            super().close()


class FifoAttachment:
    """Stands for a process with the FIFOs of an engine.

    It keeps the other side of each FIFO open too: what nobody reads fills the FIFO and then waits for the next client.
    """

    def __init__(self, stdin: str, stdout: str, stderr: str, *, terminal: bool) -> None:
        """Open the outputs; an empty path is no stream. Raise HostError or UnsupportedError that names the path."""
        self._keepers: list[int] = []
        self._closed = False
        self._input = LateInput(stdin) if stdin else None
        opened: list[int | None] = []
        try:
            opened.append(self._open_output(stdout))
            opened.append(self._open_output("" if terminal else stderr))
        except BaseException:
            for descriptor in [*opened, *self._keepers]:
                if descriptor is not None:
                    os.close(descriptor)
            raise
        self.stdio = Stdio(None, *opened)
        self.stdio.stdin = self._input

    def _open_output(self, path: str) -> int | None:
        if not path:
            return None
        scheme, separator, rest = path.partition("://")
        if separator and scheme == "file":
            return _open(rest, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if separator and scheme != "fifo":
            raise UnsupportedError(f"output cannot go to {path}: only FIFOs and file:// are supported")
        descriptor = _open(rest if separator else path, os.O_RDWR)
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            self._keepers.append(os.dup(descriptor))
        return descriptor

    def open_stdin(self) -> None:
        """Let input in: the process is about to start."""
        if self._input is not None:
            self._input.open()

    def close_stdin(self) -> None:
        """Let the process's input end when what was written is read and no client is left."""
        if self._input is not None:
            self._input.end()

    def follow(self, process: Controlled) -> None:
        """Nothing comes this way: what the engine wants, it says by the task service."""

    def take_proc(self) -> int | None:
        return None

    def finish(self, status: int | None) -> None:  # noqa: ARG002 - the exit code goes by the task service
        """Let go of everything; clients then read the end. May be called again."""
        if self._closed:
            return
        self._closed = True
        self.stdio.close()
        for descriptor in self._keepers:
            with suppress(OSError):
                os.close(descriptor)


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | _FLAGS, 0o600)
    except OSError as error:
        raise HostError(f"{path}, a stream of a process, cannot be opened: {error.strerror}") from error


class FifoTable:
    """Hands each attachment from the call that opened it to the sandbox that takes it."""

    def __init__(self) -> None:
        self._ready: dict[tuple[str, str], FifoAttachment] = {}

    def put(self, container: str, exec_id: str, attachment: FifoAttachment) -> None:
        self._ready[container, exec_id] = attachment

    def drop(self, container: str, exec_id: str) -> None:
        self._ready.pop((container, exec_id), None)

    async def take(self, container: str, exec_id: str, *, timeout: float) -> FifoAttachment:  # noqa: ARG002 - never waits
        return self._ready.pop((container, exec_id))
