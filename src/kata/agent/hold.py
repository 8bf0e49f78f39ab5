"""Holding still: what the guest does while the host saves it, and before it goes on.

A container is frozen from before it is saved until the host releases it, here or in a copy. So its processes find a
guest that is connected and has its own identity, and nothing that they write is read by a host that is gone.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kata.agent.container import Container
from kata.agent.sandbox import Sandbox
from kata.errors import Code, KataError, StateError
from kata.protocol.messages import checkpoint as wire
from kata.protocol.messages.types import Empty
from kata.transport.ttrpc import Method, Services

Request = TypeVar("Request")
Response = TypeVar("Response")


class HeldError(KataError):
    """The guest is about to be saved: ask again when it goes on."""

    code = Code.ABORTED


class Hold:
    """The calls that wait, and the containers that were frozen."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._waits: set[asyncio.Task[object]] = set()
        self._ended: set[asyncio.Task[object]] = set()
        self._frozen: list[Container] | None = None

    def end_by_hold(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return a handler that `hold` ends. It must lose nothing when it is cancelled."""

        async def wait(request: Request) -> Response:
            task = asyncio.current_task()
            assert task is not None
            self._waits.add(task)
            try:
                return await handler(request)
            except asyncio.CancelledError:
                if task not in self._ended:
                    raise
                task.uncancel()
                raise HeldError("the guest is being saved") from None
            finally:
                self._waits.discard(task)
                self._ended.discard(task)

        return wait

    async def hold(self, _: Empty) -> Empty:
        """Freeze the containers, then end all waits. Raise StateError while it is held, HostError."""
        if self._frozen is not None:
            raise StateError("the guest is held already")
        self._frozen = []
        try:
            for container in self._sandbox.containers:
                if container.started and not container.init.exited and not container.cgroup.is_frozen():
                    self._frozen.append(container)
                    await container.freeze_wholly()
        except BaseException:
            self._thaw()
            raise
        for container in self._sandbox.containers:
            for process in container.processes:
                process.stdin.interrupt()
        waits = set(self._waits)
        self._ended |= waits
        for task in waits:
            task.cancel()
        if waits:
            await asyncio.wait(waits)
        return Empty()

    async def release(self, _: Empty) -> Empty:
        """Let the containers go on that `hold` froze. Raise StateError unless it is held, HostError."""
        if self._frozen is None:
            raise StateError("the guest is not held")
        self._thaw()
        return Empty()

    def _thaw(self) -> None:
        frozen, self._frozen = self._frozen or [], None
        for container in frozen:
            container.freeze(False)

    async def renew(self, request: wire.Identity) -> Empty:
        """Give the guest and its containers an identity of their own. Raise HostError."""
        from kata.agent.identity import renew_identity  # noqa: PLC0415 - few guests are copies of a running one

        renew_identity(request, [container.init.pid for container in self._sandbox.containers])
        return Empty()


def list_checkpoint_services(hold: Hold) -> Services:
    """Return the table of the service."""
    return {
        wire.SERVICE: {
            "Hold": Method(Empty, hold.hold),
            "Release": Method(Empty, hold.release),
            "Renew": Method(wire.Identity, hold.renew),
        }
    }
