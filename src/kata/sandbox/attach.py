"""Where stand-ins connect: each hands over a process's stdio and waits for its exit code.

Over a SOCK_SEQPACKET socket the stand-in first says `{"container", "exec", "terminal", "pid", "proc"}`. With it come
descriptors as SCM_RIGHTS: standard input, output and error, or a terminal; and with `proc` the directory that it has on
/proc. Then it says `{"resize": [rows, columns]}` and `{"signal": n}` as they come. The daemon says `{"exit": n}`, once.
"""

import asyncio
import contextlib
import json
import os
import socket
from typing import Any, NamedTuple, Protocol

from kata.errors import DeadlineError, ExistsError, KataError
from kata.sandbox.stdio import Stdio
from kata.transport.readiness import wait_readable

_MESSAGE_SIZE = 4096
_HELLO_TIMEOUT = 10.0
_ACCEPT_PAUSE = 0.1
_STREAMS = 3


class Controlled(Protocol):
    """What a stand-in can do to the process it stands for."""

    async def resize(self, rows: int, columns: int) -> None: ...

    async def signal(self, number: int) -> None: ...

    async def abandon(self) -> None:
        """The stand-in is gone: nobody is left to tell how the process ended."""


class Attached(Protocol):
    """Who stands for a process on the host: a connected stand-in, or what a shim holds of its engine's FIFOs."""

    stdio: Stdio

    def follow(self, process: Controlled) -> None:
        """From now on pass what the engine wants to the process."""

    def take_proc(self) -> int | None:
        """Hand over the descriptor of a /proc to be filled with the container's processes, if there is one."""

    def finish(self, status: int | None) -> None:
        """Tell the exit code, None where there is none to tell, and let go of everything."""


class Attachments(Protocol):
    """Where a sandbox gets them from."""

    async def take(self, container: str, exec_id: str, *, timeout: float) -> Attached:
        """Return what stands for this process, waiting for it. Raise DeadlineError when nothing comes."""


class Attachment:
    """A connected stand-in and the stdio that it handed over."""

    def __init__(
        self, connection: socket.socket, stdio: Stdio, pid: int, *, terminal: bool, proc: int | None = None
    ) -> None:
        self._connection = connection
        self._proc = proc
        self.stdio = stdio
        self.pid = pid
        self.terminal = terminal
        self._follower: asyncio.Task[None] | None = None
        self._finished = False

    def follow(self, process: Controlled) -> None:
        """From now on pass what the stand-in says to the process."""
        self._follower = asyncio.create_task(self._run(process))

    async def _run(self, process: Controlled) -> None:
        while data := await self._receive():
            # One that the guest refuses, or that is no message, must not keep the next from coming through.
            with contextlib.suppress(KataError, ValueError, TypeError):
                await _pass_on(_load(data), process)
        if not self._finished:
            await process.abandon()

    async def _receive(self) -> bytes:
        """Return the stand-in's next message, nothing when it is gone."""
        while not self._finished:
            try:
                return self._connection.recv(_MESSAGE_SIZE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                await wait_readable(self._connection.fileno())
            except OSError:
                break
        return b""

    async def wait_word(self) -> None:
        """Return when the stand-in says something or is gone. Not together with `follow`."""
        await wait_readable(self._connection.fileno())

    def is_gone(self) -> bool:
        """Say whether the stand-in has hung up."""
        try:
            return not self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def take_proc(self) -> int | None:
        """Hand over the descriptor of the stand-in's /proc, if it has one of its own."""
        proc, self._proc = self._proc, None
        return proc

    def finish(self, status: int | None) -> None:
        """Tell the exit code, None where there is none to tell, and let go of everything. Only the first call counts.

        The streams are closed first: an engine that learns the exit code has all the output by then.
        """
        if self._finished:
            return
        self._finished = True
        if self._follower is not None:
            self._follower.get_loop().remove_reader(self._connection)
            self._follower.cancel()
        self.stdio.close()
        proc = self.take_proc()
        if proc is not None:
            os.close(proc)
        if status is not None:
            with contextlib.suppress(OSError):
                self._connection.send(json.dumps({"exit": status}).encode(), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        self._connection.close()


def _load(data: bytes) -> dict[str, Any]:
    """Raise ValueError for what is no JSON object."""
    try:
        message = json.loads(data)
    except RecursionError as error:
        raise ValueError("the message is nested too deeply") from error
    if not isinstance(message, dict):
        raise ValueError("the message is no object")  # noqa: TRY004 - one kind of error for all that is no message
    return message


async def _pass_on(message: dict[str, Any], process: Controlled) -> None:
    if "resize" in message:
        rows, columns = message["resize"]
        await process.resize(int(rows), int(columns))
    elif "signal" in message:
        await process.signal(int(message["signal"]))


class AttachServer:
    """Accepts stand-ins and keeps each until the call that needs it comes, or it hangs up."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._listener.setblocking(False)
        self._arrived: dict[tuple[str, str], asyncio.Future[Attachment]] = {}
        self._taken: set[tuple[str, str]] = set()
        self._watches: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Accept until cancelled, then let go of the listener and of every stand-in that nobody took."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self._listener)
                except OSError:  # out of descriptors: the stand-in waits in the backlog
                    await asyncio.sleep(_ACCEPT_PAUSE)
                    continue
                task = asyncio.create_task(self._welcome(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            self._listener.close()
            for task in (*self._tasks, *self._watches.values()):
                task.cancel()
            for key in self._watches:
                self._arrived.pop(key).result().finish(None)

    def _expect(self, key: tuple[str, str]) -> "asyncio.Future[Attachment]":
        if key not in self._arrived:
            self._arrived[key] = asyncio.get_running_loop().create_future()
        return self._arrived[key]

    async def _welcome(self, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(_HELLO_TIMEOUT):
                hello = await _receive_hello(connection)
        except (TimeoutError, OSError, ValueError):
            connection.close()
            return
        except BaseException:
            connection.close()
            raise
        key = (hello.container, hello.exec_id)
        attachment = Attachment(connection, hello.stdio, hello.pid, terminal=hello.terminal, proc=hello.proc)
        expected = self._expect(key)
        if expected.done():
            attachment.finish(None)
            return
        expected.set_result(attachment)
        if key not in self._taken:
            self._watches[key] = asyncio.create_task(self._watch(key, attachment))

    async def _watch(self, key: tuple[str, str], attachment: Attachment) -> None:
        """Let go of a stand-in that hangs up before anybody took it."""
        await attachment.wait_word()
        if attachment.is_gone():
            del self._watches[key]
            del self._arrived[key]
            attachment.finish(None)

    async def _end_watch(self, key: tuple[str, str]) -> None:
        """Stop watching, before somebody else listens on the same connection."""
        watch = self._watches.pop(key, None)
        if watch is not None:
            watch.cancel()
            await asyncio.wait({watch})

    async def take(self, container: str, exec_id: str, *, timeout: float) -> Attachment:
        """Return the stand-in of this process, waiting for it to connect.

        Raise DeadlineError when it does not, and ExistsError when another call waits for it.
        """
        key = (container, exec_id)
        name = f"exec {exec_id} of container {container}" if exec_id else f"container {container}"
        if key in self._taken:
            raise ExistsError(f"{name} is being made already")
        expected = self._expect(key)
        self._taken.add(key)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(expected)
            await self._end_watch(key)
            return expected.result()
        except TimeoutError as error:
            raise DeadlineError(f"no process came to stand for {name} within {timeout:g} s") from error
        except BaseException:
            if expected.done() and not expected.cancelled():
                expected.result().finish(None)
            raise
        finally:
            self._taken.discard(key)
            self._arrived.pop(key, None)


class _Hello(NamedTuple):
    container: str
    exec_id: str
    pid: int
    terminal: bool
    stdio: Stdio
    proc: int | None


async def _receive_hello(connection: socket.socket) -> _Hello:
    """Raise ValueError, with nothing left open, for what is no hello."""
    while True:
        try:
            flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            data, descriptors, _, _ = socket.recv_fds(connection, _MESSAGE_SIZE, _STREAMS + 1, flags)
            break
        except BlockingIOError:
            await wait_readable(connection.fileno())
    try:
        hello = _load(data)
        container, exec_id, pid = _find_process(hello)
        terminal, has_proc = bool(hello.get("terminal")), bool(hello.get("proc"))
        if len(descriptors) != (1 if terminal else _STREAMS) + has_proc:
            raise ValueError(f"{len(descriptors)} descriptors came with the hello of container {container}")
    except ValueError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    proc = descriptors.pop() if has_proc else None
    stdio = Stdio.open_terminal(descriptors[0]) if terminal else Stdio(*descriptors)
    return _Hello(container, exec_id, pid, terminal, stdio, proc)


def _find_process(hello: dict[str, Any]) -> tuple[str, str, int]:
    container, exec_id, pid = hello.get("container"), hello.get("exec", ""), hello.get("pid", 0)
    if not (isinstance(container, str) and container and isinstance(exec_id, str) and isinstance(pid, int)):
        raise ValueError("the hello does not say which process it is for")
    return container, exec_id, pid
