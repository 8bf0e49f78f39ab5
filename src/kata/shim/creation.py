"""Containers on their way: each is made once, however often and by however many clients that is asked."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from kata.errors import StateError


class Creation:
    """One container's creation, which no client's leaving ends: it is carried through, or undone as a whole."""

    def __init__(self, container: str, bundle: str, making: Coroutine[Any, Any, None]) -> None:
        self.container = container
        self.bundle = bundle
        self.task = asyncio.create_task(making)
        self._ended = False

    async def wait(self) -> None:
        """Wait for its end. Raise what it raised, or StateError when it was deleted meanwhile."""
        await asyncio.wait({self.task})
        if self.task.cancelled():
            raise StateError(f"container {self.container} was deleted while it was created")
        self.task.result()

    async def end(self) -> None:
        """Undo it, unless it comes to its own end first. May be called again."""
        if not self._ended:  # to cancel it once more would end the undoing
            self._ended = True
            self.task.cancel()
        await asyncio.wait({self.task})
