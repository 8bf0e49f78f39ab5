"""Bytes between an engine's descriptors and a process in the guest: none lost, none reordered, none piled up.

The engine's descriptors are shared with the engine: O_NONBLOCK set on them would reach its side too. So a pipe or a
terminal is opened anew through /proc/self/fd, a socket is used with MSG_DONTWAIT, and a regular file is written as is.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Callable, Coroutine

from kata.transport.readiness import wait_readable, wait_writable

CHUNK = 1 << 20
"""Bytes asked of the agent at a time: the size to which the agent enlarges a process's pipes."""


class Endpoint:
    """One end of a stream on the host. Owns its descriptor."""

    def __init__(self, descriptor: int, *, writing: bool) -> None:
        mode = os.fstat(descriptor).st_mode
        self._socket: socket.socket | None = None
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=descriptor)
            self._descriptor = self._socket.fileno()
        elif stat.S_ISREG(mode):
            self._descriptor = descriptor
        else:
            flags = (os.O_WRONLY if writing else os.O_RDONLY) | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            self._descriptor = os.open(f"/proc/self/fd/{descriptor}", flags)
            os.close(descriptor)

    async def read(self) -> bytes:
        """Return some bytes, none at the end of the stream."""
        while True:
            try:
                if self._socket is not None:
                    return self._socket.recv(CHUNK, socket.MSG_DONTWAIT)
                return os.read(self._descriptor, CHUNK)
            except BlockingIOError:
                await wait_readable(self._descriptor)
            except OSError:  # EIO: the other end of a terminal is closed
                return b""

    async def write(self, data: bytes) -> bool:
        """Write all of it, waiting as long as the reader takes. Return False where nobody reads any more."""
        view = memoryview(data)
        while view:
            try:
                if self._socket is not None:
                    view = view[self._socket.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) :]
                else:
                    view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                await wait_writable(self._descriptor)
            except OSError:
                return False
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._descriptor)


class Stdio:
    """The host's ends of a process's streams; None where the process has none."""

    def __init__(self, stdin: int | None, stdout: int | None, stderr: int | None) -> None:
        self.stdin = None if stdin is None else Endpoint(stdin, writing=False)
        self.stdout = None if stdout is None else Endpoint(stdout, writing=True)
        self.stderr = None if stderr is None else Endpoint(stderr, writing=True)

    @classmethod
    def open_terminal(cls, descriptor: int) -> "Stdio":
        """Use the one descriptor of a terminal for input and output."""
        return cls(os.dup(descriptor), descriptor, None)

    def close(self) -> None:
        for endpoint in (self.stdin, self.stdout, self.stderr):
            if endpoint is not None:
                endpoint.close()


class Pump:
    """Moves one output stream from the guest to the host and says when it is idle."""

    def __init__(self, read: Callable[[int], Coroutine[None, None, bytes]], to: Endpoint) -> None:
        self._read = read
        self._to = to
        self.waiting_since: float | None = None

    async def run(self) -> None:
        """Move bytes until the guest's stream ends. `waiting_since` is set while the guest has nothing to say.

        The next read is under way while the last one's bytes are written, so that guest and host work at once.
        """
        loop = asyncio.get_running_loop()
        wanted = True
        self.waiting_since = loop.time()
        ahead = loop.create_task(self._read(CHUNK))
        try:
            while data := await ahead:
                ahead = loop.create_task(self._read(CHUNK))
                self.waiting_since = None
                if wanted:
                    wanted = await self._to.write(data)
                self.waiting_since = loop.time()
        finally:
            ahead.cancel()
