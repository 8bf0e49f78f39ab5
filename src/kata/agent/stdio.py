"""The ends of a process's standard streams that the agent holds: pipes, or the master of a terminal.

Nothing is read before the host asks, so a container that floods its output is stopped by its full pipe and the agent
does not grow. Nothing is buffered here in either direction.
"""

import asyncio
import errno
import fcntl
import os
import struct
import termios

from kata.errors import StateError
from kata.protocol.protobuf import Buffer
from kata.sys.pipe import count_readable, enlarge_pipe

MAX_READ = 1 << 20
_DRAIN = 0.5  # seconds; how long upstream's agent waits for output that survives the process


class Output:
    """The reading end of stdout, stderr or a terminal. `name` says whose, in errors."""

    def __init__(self, descriptor: int, name: str) -> None:
        os.set_blocking(descriptor, False)
        self.name = name
        self.ended = False
        self._descriptor = descriptor
        self._turn = asyncio.Lock()
        self._wake: asyncio.Event | None = None
        self._exited = False

    async def read(self, size: int) -> bytes:
        """Wait for output and return at most `size` bytes of it; none at the end.

        The end is when every writer is gone, or when half a second after the process's own end there is nothing to
        read: a daemon that it left behind may hold the pipe for ever.
        """
        async with self._turn:
            grace: float | None = None
            while not self.ended:
                try:
                    data = os.read(self._descriptor, count_readable(self._descriptor, min(size, MAX_READ)))
                except BlockingIOError:
                    if self._exited and grace is None:
                        grace = _DRAIN
                    elif grace is not None:
                        break
                    await self._wait(grace)
                    continue
                except OSError as error:
                    if error.errno != errno.EIO:  # what the master of a terminal says when the last slave is closed
                        raise
                    data = b""
                if data:
                    return data
                break
            self.close()
            return b""

    async def _wait(self, timeout: float | None) -> None:
        """Wait until there is something to read, the process has exited, or `timeout` seconds."""
        loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        loop.add_reader(self._descriptor, self._wake.set)
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            pass
        finally:
            self._wake = None
            if not self.ended:
                loop.remove_reader(self._descriptor)

    def mark_exited(self) -> None:
        """The process is gone: what is still in the pipe can be read, then comes the end."""
        self._exited = True
        if self._wake is not None:
            self._wake.set()

    def close(self) -> None:
        """Release the descriptor; a reader that waits sees the end."""
        if self.ended:
            return
        self.ended = True
        if self._wake is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self._wake.set()
        os.close(self._descriptor)


class Input:
    """The writing end of stdin or of a terminal."""

    def __init__(self, descriptor: int, name: str) -> None:
        os.set_blocking(descriptor, False)
        self.name = name
        self._descriptor = descriptor
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._interrupts = 0
        self._closing = False
        self._closed = False
        self._wake: asyncio.Event | None = None

    async def write(self, data: Buffer) -> int:
        """Write all of it, waiting while the pipe is full. Calls write in the order in which they were made.

        Return how many bytes were written: fewer where `interrupt` ended the wait. Raise StateError when stdin is
        closed, here or by the process.
        """
        if self._closing:
            raise StateError(f"stdin of {self.name} is closed")
        self._waiting += 1
        interrupts = self._interrupts
        try:
            async with self._turn:
                rest = memoryview(data)
                while rest and interrupts == self._interrupts:
                    if self._closed:
                        raise StateError(f"stdin of {self.name} was closed before all was written")
                    try:
                        rest = rest[os.write(self._descriptor, rest) :]
                    except BlockingIOError:
                        await self._wait()
                    except OSError as error:
                        if error.errno not in {errno.EPIPE, errno.EIO}:
                            raise
                        raise StateError(f"stdin of {self.name} was closed by the process") from error
                return len(data) - len(rest)
        finally:
            self._waiting -= 1
            if self._closing and not self._waiting:
                self.release()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        loop.add_writer(self._descriptor, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            self._wake = None
            if not self._closed:
                loop.remove_writer(self._descriptor)

    def interrupt(self) -> None:
        """End every write that is under way."""
        self._interrupts += 1
        if self._wake is not None:
            self._wake.set()

    def close(self) -> None:
        """End stdin after what is being written now."""
        self._closing = True
        if not self._waiting:
            self.release()

    def release(self) -> None:
        """Release the descriptor at once; a writer that waits fails."""
        self._closing = True
        if self._closed:
            return
        self._closed = True
        if self._wake is not None:
            asyncio.get_running_loop().remove_writer(self._descriptor)
            self._wake.set()
        os.close(self._descriptor)


class Pipes:
    """Three pipes: ours to keep, theirs to hand to the process and close."""

    def __init__(self, name: str, capacity: int) -> None:
        """`capacity` is in bytes, 0 for the kernel's default of 64 KiB."""
        ends: list[int] = []
        try:
            for _ in range(3):
                ends.extend(os.pipe2(os.O_CLOEXEC))
            for descriptor in ends[::2]:
                enlarge_pipe(descriptor, capacity)
        except OSError:
            for descriptor in ends:
                os.close(descriptor)
            raise
        their_in, our_in, our_out, their_out, our_err, their_err = ends
        self._theirs: tuple[int, ...] = (their_in, their_out, their_err)
        self.stdin = Input(our_in, name)
        self.stdout = Output(our_out, name)
        self.stderr = Output(our_err, name)

    @property
    def theirs(self) -> tuple[int, int, int]:
        stdin, stdout, stderr = self._theirs
        return stdin, stdout, stderr

    def close_theirs(self) -> None:
        for descriptor in self._theirs:
            os.close(descriptor)
        self._theirs = ()

    def close(self) -> None:
        self.close_theirs()
        self.stdin.release()
        self.stdout.close()
        self.stderr.close()


class Terminal:
    """The master of a pseudo terminal, as stdin and stdout. It owns the descriptor."""

    def __init__(self, master: int, name: str) -> None:
        self._master = master
        self.stdin = Input(os.dup(master), name)
        self.stdout = Output(os.dup(master), name)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
        self.stdin.release()
        self.stdout.close()
