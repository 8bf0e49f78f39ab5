"""Events reach containerd's socket in order, also over a restart of it."""

import asyncio
from pathlib import Path

from kata.errors import UsageError
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


async def test_events_wait_for_containerd_in_order_and_the_oldest_give_way_to_a_flood(tmp_path: Path) -> None:
    seen: list[events.Envelope] = []
    lost: list[str] = []
    publisher = Publisher(f"{tmp_path}/events", "space", lost.append, limit=3)
    for number in range(5):
        publisher.publish(events.TaskExit(container_id=str(number)))
    running = asyncio.create_task(publisher.run())
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: ServerConnection(_serve(seen)), f"{tmp_path}/events")
    async with asyncio.timeout(20):
        await publisher.drain()
    running.cancel()
    publisher.close()
    server.close()

    found = [events.TaskExit.decode(envelope.event.value).container_id for envelope in seen if envelope.event]
    assert found == ["2", "3", "4"]
    assert len(lost) == 2
    assert "3 others wait" in lost[0]


async def test_an_event_that_is_refused_does_not_keep_up_those_after_it(tmp_path: Path) -> None:
    seen: list[events.Envelope] = []
    lost: list[str] = []

    async def forward(request: events.ForwardRequest) -> Empty:
        assert request.envelope is not None
        if request.envelope.topic == "/tasks/oom":
            raise UsageError("what is that")
        seen.append(request.envelope)
        return Empty()

    services = {events.SERVICE: {"Forward": Method(events.ForwardRequest, forward)}}
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: ServerConnection(services), f"{tmp_path}/events")
    publisher = Publisher(f"{tmp_path}/events", "space", lost.append)
    running = asyncio.create_task(publisher.run())
    publisher.publish(events.TaskOOM(container_id="c"))
    publisher.publish(events.TaskStart(container_id="c"))
    async with asyncio.timeout(20):
        await publisher.drain()
    running.cancel()
    publisher.close()
    server.close()

    assert [envelope.topic for envelope in seen] == ["/tasks/start"]
    assert lost == ["event /tasks/oom is lost: what is that"]


async def test_without_an_address_events_go_nowhere() -> None:
    publisher = Publisher("", "space", lambda _: None)
    publisher.publish(events.TaskOOM(container_id="c"))

    async with asyncio.timeout(1):
        await publisher.drain()
