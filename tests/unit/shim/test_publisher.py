"""Events reach containerd's socket in order, also over a restart of it."""

import asyncio
from pathlib import Path

from kata.protocol.messages import events
from kata.protocol.messages.types import Empty
from kata.shim.publisher import Publisher
from kata.transport.ttrpc import Method, ServerConnection, Services


def _serve(seen: list[events.Envelope]) -> Services:
    async def forward(request: events.ForwardRequest) -> Empty:
        assert request.envelope is not None
        seen.append(request.envelope)
        return Empty()

    return {events.SERVICE: {"Forward": Method(events.ForwardRequest, forward)}}


async def test_events_arrive_in_order_with_topic_namespace_and_type(tmp_path: Path) -> None:
    seen: list[events.Envelope] = []
    services = _serve(seen)
    lost: list[str] = []
    publisher = Publisher(f"{tmp_path}/events", "space", lost.append)
    publisher.publish(events.TaskStart(container_id="c", pid=7))
    running = asyncio.create_task(publisher.run())
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: ServerConnection(services), f"{tmp_path}/events")
    publisher.publish(events.TaskExit(container_id="c", id="c", exit_status=3))
    async with asyncio.timeout(20):
        await publisher.drain()
    running.cancel()
    publisher.close()
    server.close()

    assert [(event.topic, event.namespace) for event in seen] == [("/tasks/start", "space"), ("/tasks/exit", "space")]
    assert seen[1].event is not None
    assert seen[1].event.type_url == "containerd.events.TaskExit"
    assert events.TaskExit.decode(seen[1].event.value).exit_status == 3
    assert not lost


async def test_without_an_address_events_go_nowhere() -> None:
    publisher = Publisher("", "space", lambda _: None)
    publisher.publish(events.TaskOOM(container_id="c"))

    async with asyncio.timeout(1):
        await publisher.drain()
