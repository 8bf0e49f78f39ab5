"""Events on their way to containerd: one after the other, in the order in which they happened."""

import asyncio
import time
from collections.abc import Callable

from kata.errors import KataError
from kata.protocol.messages import events
from kata.protocol.messages.google import make_timestamp, pack_message
from kata.protocol.messages.types import Empty
from kata.protocol.protobuf import Message
from kata.transport.ttrpc import Client, connect_unix

_TIMEOUT = 5.0
_TRIES = 5
_PAUSE = 1.0


class Publisher:
    """Sends events to the ttrpc socket at `address`. Without an address (CRI-O) they go nowhere."""

    def __init__(self, address: str, namespace: str, report: Callable[[str], None]) -> None:
        """`report` is told of an event that could not be delivered."""
        self._address = address
        self._namespace = namespace
        self._report = report
        self._queue: asyncio.Queue[events.Envelope] = asyncio.Queue()
        self._client: Client | None = None

    def publish(self, event: Message) -> None:
        """Put an event behind those before it. Never waits."""
        kind = type(event)
        envelope = events.Envelope(
            timestamp=make_timestamp(time.time_ns()),
            namespace=self._namespace,
            topic=events.TOPICS[kind],
            event=pack_message(f"{events.PACKAGE}.{kind.__name__}", event),
        )
        if self._address:
            self._queue.put_nowait(envelope)

    async def run(self) -> None:
        """Deliver events until cancelled."""
        while True:
            envelope = await self._queue.get()
            try:
                await self._deliver(envelope)
            finally:
                self._queue.task_done()

    async def _deliver(self, envelope: events.Envelope) -> None:
        for turn in range(1, _TRIES + 1):
            try:
                await self._forward(envelope)
            except KataError as error:
                if turn == _TRIES:
                    self._report(f"event {envelope.topic} is lost: {error}")
                else:
                    await asyncio.sleep(_PAUSE * turn)  # containerd restarts; it announces itself to nobody
            else:
                return

    async def _forward(self, envelope: events.Envelope) -> None:
        if self._client is None or self._client.lost.is_set():
            self._client = await connect_unix(self._address, "containerd", timeout=_TIMEOUT)
        request = events.ForwardRequest(envelope=envelope)
        await self._client.call(events.SERVICE, "Forward", request, Empty, timeout=_TIMEOUT)

    async def drain(self) -> None:
        """Wait until every event is delivered or given up."""
        await self._queue.join()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
