"""A process in the guest as the host holds it: its streams, its stand-in, its exit."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial

from kata.errors import KataError
from kata.sandbox.attach import Attached
from kata.sandbox.guest import LOST_STATUS, Guest
from kata.sandbox.stdio import Endpoint, Pump

_QUIET_AFTER_EXIT = 1.0
"""Seconds of silence after which a stream that outlives its process is given up; a guest on TCG needs some."""

_SIGNAL_TIMEOUT = 10.0


class GuestProcess:
    """One process: `exec_id` is the container's id for its init. `exited` is done when all its output is delivered."""

    def __init__(self, guest: Guest, container: str, exec_id: str, attachment: Attached) -> None:
        self.guest = guest
        self.container = container
        self.exec_id = exec_id
        self.attachment = attachment
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.exited_at = 0
        self.farewell: Callable[[], Awaitable[None]] | None = None
        """What is done when the process has ended, before anybody is told."""
        self._tasks: list[asyncio.Task[None]] = []

    def follow(self) -> None:
        """Start to move bytes and to wait for the end. Call it once, when the agent knows the process."""
        stdio = self.attachment.stdio
        outputs: list[tuple[Pump, asyncio.Task[None]]] = []
        for stream, endpoint in (("Stdout", stdio.stdout), ("Stderr", stdio.stderr)):
            if endpoint is not None:
                pump = Pump(partial(self.guest.read_stream, self.container, self.exec_id, stream), endpoint)
                outputs.append((pump, asyncio.create_task(pump.run())))
        self._tasks = [task for _, task in outputs]
        if stdio.stdin is not None:
            self._tasks.append(asyncio.create_task(self._feed(stdio.stdin)))
        self._tasks.append(asyncio.create_task(self._wait(outputs)))
        self.attachment.follow(self)

    async def _feed(self, stdin: Endpoint) -> None:
        try:
            while data := await stdin.read():
                await self.guest.write_stdin(self.container, self.exec_id, data)
            await self.guest.close_stdin(self.container, self.exec_id)
        except KataError:
            return  # the process is gone or has closed its input; its exit says the rest

    async def _wait(self, outputs: "list[tuple[Pump, asyncio.Task[None]]]") -> None:
        try:
            status = await self.guest.wait_process(self.container, self.exec_id)
        except KataError:
            status = await self.guest.find_lost_status()
        self.exited_at = time.time_ns()
        for pump, task in outputs:
            await _drain(pump, task)
        if self.farewell is not None:
            await self.farewell()
        self.end(status)

    def end(self, status: int) -> None:
        """Deliver the exit code, if none was delivered yet, and let go of streams and stand-in."""
        if self.exited.done():
            return
        self.exited_at = self.exited_at or time.time_ns()
        self.exited.set_result(status)
        self.attachment.finish(status)
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()

    async def resize(self, rows: int, columns: int) -> None:
        try:
            await self.guest.resize_terminal(self.container, self.exec_id, rows, columns)
        except KataError:
            return  # the process ended meanwhile

    async def signal(self, number: int) -> None:
        """Send a signal to this process alone."""
        await self.guest.signal_process(self.container, self.exec_id, number, timeout=_SIGNAL_TIMEOUT)

    async def abandon(self) -> None:
        """Kill the process, since the one that stood for it was killed."""
        try:
            await self.signal(signal.SIGKILL)
        except KataError:
            self.end(LOST_STATUS)


async def _drain(pump: Pump, task: "asyncio.Task[None]") -> None:
    """Wait for the stream's end, unless only a left-over child holds it open and says nothing."""
    loop = asyncio.get_running_loop()
    while not task.done():
        await asyncio.wait({task}, timeout=_QUIET_AFTER_EXIT)
        waiting = pump.waiting_since
        if not task.done() and waiting is not None and loop.time() - waiting >= _QUIET_AFTER_EXIT:
            task.cancel()
            return
