"""Out-of-memory kills, told to the host one by one: `GetOOMEvent` waits for the next."""

import asyncio

from kata.agent.container import Container

_LATE = 1000


class OomEvents:
    """Watches the containers' memory.events and queues the ids of those in which something was killed."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[str] = asyncio.Queue(_LATE)

    def watch(self, container: Container) -> None:
        """Begin to watch. The end of the first process is looked at too, so the event is there before its status."""
        container.watch("memory.events", lambda: self.look(container))

    def look(self, container: Container) -> None:
        kills = container.cgroup.read_oom_kills()
        if kills > container.oom_kills:
            container.oom_kills = kills
            if not self._queue.full():
                self._queue.put_nowait(container.id)

    async def next(self) -> str:
        """Wait for the next event and return the container's id."""
        return await self._queue.get()
