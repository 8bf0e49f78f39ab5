"""A process's stdio as containerd gives it: paths of FIFOs, which any number of clients open and close as they like."""

import asyncio
import os
import stat
from contextlib import suppress
from typing import NamedTuple

from kata.errors import HostError, UnsupportedError
from kata.sandbox.attach import Controlled
from kata.sandbox.stdio import Endpoint, Stdio

TYPE_CHECKING = False  # importing typing here would be for nothing
if TYPE_CHECKING:
    from kata.shim.logger import Logger
    from kata.shim.streams import StreamAttachment, StreamTable
    from kata.transport.ttrpc_stream import StreamCall

SCHEMES = ("binary", "binary-v2")
"""Of a URI that names a program to take the output."""

_STREAM_SCHEME = "ttrpc+unix"
"""Of a URI that names a stream of the shim's own socket."""

_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Streams(NamedTuple):
    """The paths that containerd gave."""

    stdin: str
    stdout: str
    stderr: str
    terminal: bool


class LateInput(Endpoint):
    """Standard input that is opened when the process is started, not before.

    The FIFO's opening releases the client, which copies its input and then asks for CloseIO. ctr can ask that only once
    Create or Exec has been answered; a client that is released earlier never does, and the input has no end.
    """

    def __init__(self, path: str) -> None:
        # The base's state is that of a descriptor, and there is none yet.
        self._path = path
        self._opened = asyncio.Event()
        self._reader: Endpoint | None = None
        self._writer: int | None = None
        self._ending = False

    def open(self) -> None:
        """Open the FIFO on both sides: a client that leaves does not end the input. Raise HostError."""
        descriptor = _open(self._path, os.O_RDONLY)
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode) and not self._ending:
            self._writer = _open(self._path, os.O_WRONLY)
        self._reader = Endpoint(descriptor, writing=False)
        self._opened.set()

    def end(self) -> None:
        """Let the input end when what was written is read and no client is left."""
        self._ending = True
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None

    async def read(self) -> bytes:
        await self._opened.wait()
        assert self._reader is not None
        return await self._reader.read()

    def close(self) -> None:
        self.end()
        if self._reader is not None:
            self._reader.close()


class FifoAttachment:
    """Stands for a process with the FIFOs of an engine, or with a program or a file that takes its output.

    It keeps the other side of each FIFO open too: what nobody reads fills the FIFO and then waits for the next client.
    """

    def __init__(self, streams: Streams, logger: "Logger | None" = None) -> None:
        """Open the outputs; an empty path is no stream. Raise HostError or UnsupportedError that names the path.

        A `logger` takes both outputs instead, and is owned from then on.
        """
        self._keepers: list[int] = []
        self._closed = False
        self._logger = logger
        self._ending: asyncio.Task[None] | None = None
        self._input = LateInput(streams.stdin) if streams.stdin else None
        if logger is not None:
            self.stdio = Stdio(None, logger.stdout, logger.stderr)
        else:
            self.stdio = Stdio(None, *self._open_outputs(streams))
        self.stdio.stdin = self._input

    def _open_outputs(self, streams: Streams) -> list[int | None]:
        opened: list[int | None] = []
        try:
            opened.append(self._open_output(streams.stdout))
            opened.append(self._open_output("" if streams.terminal else streams.stderr))
        except BaseException:
            for descriptor in [*opened, *self._keepers]:
                if descriptor is not None:
                    os.close(descriptor)
            raise
        return opened

    def _open_output(self, path: str) -> int | None:
        if not path:
            return None
        scheme, separator, rest = path.partition("://")
        if separator and scheme == "file":
            return _open_file(rest)
        if separator and scheme != "fifo":
            known = ", ".join(f"{name}://" for name in ("fifo", "file", *SCHEMES))
            raise UnsupportedError(f"output cannot go to {path}: what can be is a FIFO's path, {known}")
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
        if self._logger is not None:
            self._ending = asyncio.create_task(self._logger.end())

    async def close(self) -> None:
        """Let go of everything, and wait until a logger has ended too."""
        self.finish(None)
        if self._ending is not None:
            await asyncio.shield(self._ending)


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | _FLAGS, 0o644)
    except OSError as error:
        raise HostError(f"{path}, a stream of a process, cannot be opened: {error.strerror}") from error


def _open_file(path: str) -> int:
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    except OSError as error:
        raise HostError(f"the directory of {path}, a stream of a process, cannot be made: {error.strerror}") from error
    return _open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


class FifoTable:
    """Opens the streams of processes, and hands each attachment to the sandbox that takes it."""

    def __init__(self, namespace: str) -> None:
        """`namespace` is containerd's, which a logger is told."""
        self._namespace = namespace
        self._ready: dict[tuple[str, str], FifoAttachment | StreamAttachment] = {}
        self._streams: StreamTable | None = None

    async def open(self, process: str, streams: Streams) -> "FifoAttachment | StreamAttachment":
        """Open what a process of this id writes to. Raise HostError, UnsupportedError or UsageError."""
        scheme = streams.stdout.partition("://")[0]
        if _STREAM_SCHEME in (scheme, streams.stdin.partition("://")[0]):
            from kata.shim.streams import StreamAttachment  # noqa: PLC0415 - few containerds are set up to have one

            return StreamAttachment(streams, self._find_streams())
        logger = None
        if scheme in SCHEMES:
            from kata.shim.logger import start_logger  # noqa: PLC0415 - few containers have one, and it costs 10 ms

            logger = await start_logger(streams.stdout, process, self._namespace)
        return FifoAttachment(streams, logger)

    async def serve_stream(self, call: "StreamCall") -> None:
        """Be the client's end of a stream that a process has or is going to have."""
        await self._find_streams().serve(call)

    def _find_streams(self) -> "StreamTable":
        from kata.shim.streams import StreamTable  # noqa: PLC0415 - see above

        if self._streams is None:
            self._streams = StreamTable()
        return self._streams

    def close(self) -> None:
        """End every stream, so that no client waits for more."""
        if self._streams is not None:
            self._streams.close()

    def put(self, container: str, exec_id: str, attachment: "FifoAttachment | StreamAttachment") -> None:
        self._ready[container, exec_id] = attachment

    def drop(self, container: str, exec_id: str) -> None:
        self._ready.pop((container, exec_id), None)

    async def take(self, container: str, exec_id: str, *, timeout: float) -> "FifoAttachment | StreamAttachment":  # noqa: ARG002 - never waits
        return self._ready.pop((container, exec_id))
