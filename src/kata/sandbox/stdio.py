"""Bytes between an engine's descriptors and a process in the guest: none lost, none reordered, none piled up.

The engine's descriptors are shared with the engine: O_NONBLOCK set on them would reach its side too. So a pipe or a
terminal is opened anew through /proc/self/fd, a socket is used with MSG_DONTWAIT, and a regular file is written as is.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Callable, Coroutine

from kata.errors import KataError
from kata.protocol.protobuf import Buffer
from kata.sys.pipe import count_readable, enlarge_pipe

CHUNK = 1 << 20
"""Bytes asked of the agent at a time: the size to which the agent enlarges a process's pipes."""

_SURE_SIZE = 4096
"""What a pipe that polls as writable takes without blocking: PIPE_BUF of pipe(7)."""


class Endpoint:
    """One end of a stream on the host. Owns its descriptor, also when making it fails."""

    def __init__(self, descriptor: int, *, writing: bool) -> None:
        self._socket: socket.socket | None = None
        self._descriptor = descriptor
        self._asks_first = False
        self._waiting: asyncio.Future[None] | None = None
        self._closed = False
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=descriptor)
        elif not stat.S_ISREG(mode):
            self._open_anew(writing=writing)

    def _open_anew(self, *, writing: bool) -> None:
        flags = (os.O_WRONLY if writing else os.O_RDONLY) | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            anew = os.open(f"/proc/self/fd/{self._descriptor}", flags)
        except OSError:
            # ENXIO for a pipe that nobody reads and for /dev/tty of another session: then never move without asking.
            self._asks_first = True
            return
        os.close(self._descriptor)
        self._descriptor = anew
        enlarge_pipe(anew, CHUNK)

    async def read(self) -> bytes:
        """Return some bytes, none at the end of the stream."""
        while True:
            try:
                if self._asks_first:
                    await self._wait(writing=False)
                if self._socket is not None:
                    return self._socket.recv(CHUNK, socket.MSG_DONTWAIT)
                return os.read(self._descriptor, count_readable(self._descriptor, CHUNK))
            except BlockingIOError:
                await self._wait(writing=False)
            except OSError:  # EIO: the other end of a terminal is closed
                return b""

    async def write(self, data: Buffer) -> bool:
        """Write all of it, waiting as long as the reader takes. Return False where nobody reads any more."""
        view = memoryview(data)
        while view:
            try:
                if self._asks_first:
                    await self._wait(writing=True)
                    view = view[os.write(self._descriptor, view[:_SURE_SIZE]) :]
                elif self._socket is not None:
                    view = view[self._socket.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) :]
                else:
                    view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                await self._wait(writing=True)
            except OSError:
                return False
        return True

    async def _wait(self, *, writing: bool) -> None:
        """Wait until the descriptor is ready; what cannot be polled (a file, a directory) is."""
        loop = asyncio.get_running_loop()
        ready = self._waiting = loop.create_future()
        add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
        try:
            add(self._descriptor, _wake, ready)
        except PermissionError:
            return
        try:
            await ready
        finally:
            self._waiting = None
            # Closed, the number may be another's by now, and so may be what the loop knows of it.
            if not self._closed:
                remove(self._descriptor)

    def close(self) -> None:
        """Close the descriptor and end a wait for it. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._end_wait()
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._descriptor)

    def _end_wait(self) -> None:
        if self._waiting is not None:
            loop = self._waiting.get_loop()
            loop.remove_reader(self._descriptor)
            loop.remove_writer(self._descriptor)
            self._waiting.cancel()


def _wake(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


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

    def __init__(self, read: Callable[[int], Coroutine[None, None, Buffer]], to: Endpoint) -> None:
        self._read = read
        self._to = to
        self.waiting_since: float | None = None

    async def run(self) -> None:
        """Move bytes until the guest's stream or the guest ends. `waiting_since` is set while the guest is silent.

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
        except KataError:
            return
        finally:
            ahead.cancel()
