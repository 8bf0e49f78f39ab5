"""Events on their way to containerd: one after the other, in the order in which they happened."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from kata.errors import Code, DeadlineError, GuestError, KataError
from kata.protocol.messages import events
from kata.protocol.messages.google import make_timestamp, pack_message
from kata.protocol.messages.types import Empty
from kata.protocol.protobuf import Message
from kata.transport.ttrpc import Client, connect_unix

_TIMEOUT = 5.0
_PAUSE = 0.5
"""Seconds between two tries. containerd tells nobody that it is back; to ask a socket costs next to nothing."""

_LIMIT = 4096
"""Events kept while containerd is away: some megabytes at most, and more than the containers of one pod do in a day."""


class Publisher:
    """Sends events to the ttrpc socket at `address`, however long that is away. Without an address they go nowhere."""

    def __init__(self, address: str, namespace: str, report: Callable[[str], None], *, limit: int = _LIMIT) -> None:
        """`report` is told of an event that is lost: containerd refused it, or `limit` others came after it."""
        self._address = address
        self._namespace = namespace
        self._report = report
        self._limit = limit
        self._waiting: deque[events.Envelope] = deque()
        self._arrived = asyncio.Event()
        self._delivered = asyncio.Event()
        self._delivered.set()
        self._client: Client | None = None

    def publish(self, event: Message) -> None:
        """Put an event behind those before it. Never waits."""
        if not self._address:
            return
        kind = type(event)
        envelope = events.Envelope(
            timestamp=make_timestamp(time.time_ns()),
            namespace=self._namespace,
            topic=events.TOPICS[kind],
            event=pack_message(f"{events.PACKAGE}.{kind.__name__}", event),
        )
        if len(self._waiting) >= self._limit:
            self._report(f"event {self._waiting.popleft().topic} is lost: {self._limit} others wait for containerd")
        self._waiting.append(envelope)
        self._arrived.set()
        self._delivered.clear()

    async def run(self) -> None:
        """Deliver events until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                await self._deliver(self._waiting[0])
            self._delivered.set()

    async def _deliver(self, envelope: events.Envelope) -> None:
        """Send the first event, or wait a while. It stays the first until containerd has it."""
        try:
            await self._forward(envelope)
        except KataError as error:
            if _is_away(error):
                await asyncio.sleep(_PAUSE)
                return
            self._report(f"event {envelope.topic} is lost: {error}")
        if self._waiting and self._waiting[0] is envelope:
            self._waiting.popleft()

    async def _forward(self, envelope: events.Envelope) -> None:
        if self._client is None or self._client.lost.is_set():
            self._client = await connect_unix(self._address, "containerd", timeout=_TIMEOUT)
        request = events.ForwardRequest(envelope=envelope)
        await self._client.call(events.SERVICE, "Forward", request, Empty, timeout=_TIMEOUT)

    async def drain(self) -> None:
        """Wait until every event is delivered."""
        await self._delivered.wait()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def _is_away(error: KataError) -> bool:
    """Say whether containerd has not answered at all, so that it may take the event later."""
    return isinstance(error, DeadlineError) or (isinstance(error, GuestError) and error.status == Code.UNAVAILABLE)
