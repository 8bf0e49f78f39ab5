"""A QMP session over a connected socket."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kata.errors import Code, DeadlineError, GuestError, HostError, KataError, ProtocolError
from kata.protocol.qmp import Answer, Event, Greeting, Message, QmpEngine, Refusal

_READ = 65536
_EVENTS_KEPT = 256


class QmpSession:
    """Commands, answers and events. Commands run one at a time, as QEMU runs them.

    The raw socket is read and written directly: asyncio's transports cannot pass descriptors (SCM_RIGHTS), which is how
    disks and taps reach a VMM that may not open them itself.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.greeting: Greeting | None = None
        self.events: deque[Event] = deque(maxlen=_EVENTS_KEPT)
        self.on_event: Callable[[Event], None] | None = None
        self._connection = connection
        self._engine = QmpEngine()
        self._order = asyncio.Lock()
        self._news = asyncio.Event()
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting: dict[int, asyncio.Future[Answer | Refusal]] = {}
        self._lost: KataError | None = None
        self._reader = asyncio.create_task(self._read())

    async def open(self, *, timeout: float) -> Greeting:
        """Wait for the greeting and leave negotiation mode. Raise DeadlineError, or GuestError when QEMU hung up."""
        try:
            async with asyncio.timeout(timeout):
                await self._greeted
                async with self._order:
                    number, line = self._engine.negotiate()
                    await self._exchange("qmp_capabilities", number, line, ())
        except TimeoutError as error:
            raise DeadlineError(f"QEMU did not open its QMP session within {timeout:g} s") from error
        assert self.greeting is not None
        return self.greeting

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        descriptors: Sequence[int] = (),
        timeout: float = 10.0,
    ) -> Any:
        """Run a command, return what it returns. `descriptors` travel with it (for `getfd` and `add-fd`).

        Raise HostError when QEMU refuses, DeadlineError after `timeout` seconds (it may still be carried out),
        GuestError when QEMU hung up.
        """
        try:
            async with asyncio.timeout(timeout), self._order:
                if self._lost is not None:
                    raise self._lost
                number, line = self._engine.encode(command, arguments)
                return await self._exchange(command, number, line, descriptors)
        except TimeoutError as error:
            raise DeadlineError(f"QEMU did not answer {command} within {timeout:g} s") from error

    async def _exchange(self, command: str, number: int, line: bytes, descriptors: Sequence[int]) -> Any:
        waiting: asyncio.Future[Answer | Refusal] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            await self._send(line, descriptors)
            answer = await waiting
        finally:
            self._waiting.pop(number, None)
        if isinstance(answer, Refusal):
            raise HostError(f"QEMU refused {command}: {answer.description} ({answer.kind})")
        return answer.value

    async def _send(self, line: bytes, descriptors: Sequence[int]) -> None:
        loop = asyncio.get_running_loop()
        try:
            if descriptors:
                # Commands with descriptors are short and alone on the wire: an empty socket buffer takes them whole.
                sent = socket.send_fds(self._connection, [line], list(descriptors))
                line = line[sent:]
            await loop.sock_sendall(self._connection, line)
        except OSError as error:
            raise GuestError(f"QEMU hung up: {error}", status=Code.UNAVAILABLE) from error

    async def wait_event(
        self, name: str, matches: Callable[[Mapping[str, Any]], bool] = lambda _: True, *, timeout: float
    ) -> Event:
        """The newest kept event of this name whose data matches, waiting for one if there is none."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    for event in list(self.events)[::-1]:
                        if event.name == name and matches(event.data):
                            return event
                    if self._lost is not None:
                        raise self._lost
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as error:
            raise DeadlineError(f"QEMU reported no {name} within {timeout:g} s") from error

    def forget_events(self, name: str) -> None:
        """Drop what was kept of this name, so that a wait for it is for a new one."""
        kept = [event for event in self.events if event.name != name]
        self.events.clear()
        self.events.extend(kept)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        reason: KataError = GuestError("QEMU closed the QMP session", status=Code.UNAVAILABLE)
        try:
            while data := await loop.sock_recv(self._connection, _READ):
                for message in self._engine.receive(data):
                    self._handle(message)
        except OSError as error:
            reason = GuestError(f"QEMU hung up: {error}", status=Code.UNAVAILABLE)
        except ProtocolError as error:
            reason = error
        finally:
            self._fail(reason)

    def _handle(self, message: Message) -> None:
        match message:
            case Greeting():
                self.greeting = message
                if not self._greeted.done():
                    self._greeted.set_result(None)
            case Event():
                self.events.append(message)
                self._news.set()
                if self.on_event is not None:
                    self.on_event(message)
            case Answer() | Refusal():
                waiting = None if message.number is None else self._waiting.get(message.number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)

    def _fail(self, reason: KataError) -> None:
        self._lost = reason
        self._news.set()
        futures: list[asyncio.Future[Any]] = [self._greeted, *self._waiting.values()]
        for waiting in futures:
            if not waiting.done():
                waiting.set_exception(reason)
                # Nobody may be waiting for the greeting any more; a future's unread exception is a warning.
                waiting.exception()

    async def wait_closed(self, *, timeout: float) -> None:
        """Wait until QEMU has hung up and all that it said before was handled; `timeout` seconds at most."""
        await asyncio.wait({self._reader}, timeout=timeout)

    async def close(self) -> None:
        """Hang up."""
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
        self._connection.close()
