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
from typing import Any, Protocol

from kata.errors import DeadlineError
from kata.sandbox.stdio import Stdio
from kata.transport.readiness import wait_readable

_MESSAGE_SIZE = 4096
_HELLO_TIMEOUT = 10.0


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

    def follow(self, process: Controlled) -> None:
        """From now on pass what the stand-in says to the process."""
        self._follower = asyncio.create_task(self._run(process))

    async def _run(self, process: Controlled) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._connection, _MESSAGE_SIZE)
            except OSError:
                data = b""
            if not data:
                await process.abandon()
                return
            message = json.loads(data)
            if "resize" in message:
                rows, columns = message["resize"]
                await process.resize(int(rows), int(columns))
            elif "signal" in message:
                await process.signal(int(message["signal"]))

    def take_proc(self) -> int | None:
        """Hand over the descriptor of the stand-in's /proc, if it has one of its own."""
        proc, self._proc = self._proc, None
        return proc

    def finish(self, status: int | None) -> None:
        """Tell the exit code, None where there is none to tell, and let go of everything."""
        if self._follower is not None:
            self._follower.cancel()
        self.stdio.close()
        if self._proc is not None:
            os.close(self._proc)
            self._proc = None
        if status is not None:
            with contextlib.suppress(OSError):
                self._connection.send(json.dumps({"exit": status}).encode(), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        self._connection.close()


class AttachServer:
    """Accepts stand-ins and keeps each until the call that needs it comes."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._listener.setblocking(False)
        self._arrived: dict[tuple[str, str], asyncio.Future[Attachment]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            task = asyncio.create_task(self._welcome(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _expect(self, container: str, exec_id: str) -> "asyncio.Future[Attachment]":
        key = (container, exec_id)
        if key not in self._arrived:
            self._arrived[key] = asyncio.get_running_loop().create_future()
        return self._arrived[key]

    async def _welcome(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            async with asyncio.timeout(_HELLO_TIMEOUT):
                hello, descriptors = await _receive_hello(connection)
        except (TimeoutError, OSError, ValueError):
            connection.close()
            return
        terminal = bool(hello.get("terminal"))
        proc = descriptors.pop() if hello.get("proc") else None
        stdio = Stdio.open_terminal(descriptors[0]) if terminal else Stdio(*descriptors)
        expected = self._expect(str(hello["container"]), str(hello.get("exec", "")))
        if expected.done():
            stdio.close()
            connection.close()
        else:
            expected.set_result(Attachment(connection, stdio, int(hello.get("pid", 0)), terminal=terminal, proc=proc))

    async def take(self, container: str, exec_id: str, *, timeout: float) -> Attachment:
        """Return the stand-in of this process, waiting for it to connect. Raise DeadlineError when it does not."""
        expected = self._expect(container, exec_id)
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(expected)
        except TimeoutError as error:
            name = f"exec {exec_id} of container {container}" if exec_id else f"container {container}"
            raise DeadlineError(f"no process came to stand for {name} within {timeout:g} s") from error
        finally:
            self._arrived.pop((container, exec_id), None)


async def _receive_hello(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, _MESSAGE_SIZE, 4, socket.MSG_CMSG_CLOEXEC)
            break
        except BlockingIOError:
            await wait_readable(connection.fileno())
    hello = json.loads(data) if data else {}
    wanted = (1 if hello.get("terminal") else 3) + bool(hello.get("proc"))
    if len(descriptors) != wanted or not hello.get("container"):
        for descriptor in descriptors:
            os.close(descriptor)
        raise ValueError("not a stand-in's hello")
    return hello, descriptors
