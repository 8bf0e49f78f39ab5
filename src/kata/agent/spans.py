"""What the agent did and when: the host's timeline shows it beside what the host did."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from kata.protocol.messages.inspect import ListSpansResponse, Span

_MOST = 256
"""How many are kept, the latest ones: a container's start makes about ten."""


class Spans:
    """Times are nanoseconds of CLOCK_MONOTONIC, which counts from the start of the guest's kernel."""

    def __init__(self) -> None:
        self._kept: deque[Span] = deque(maxlen=_MOST)

    def note(self, name: str, start: int, end: int, *, failed: bool = False) -> None:
        self._kept.append(Span(name=name, start=start, length=end - start, failed=failed))

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time the block."""
        start, failed = time.monotonic_ns(), True
        try:
            yield
            failed = False
        finally:
            self.note(name, start, time.monotonic_ns(), failed=failed)

    def clear(self) -> None:
        """Forget what was noted."""
        self._kept.clear()

    def describe(self) -> ListSpansResponse:
        """Return what is kept, and the time now, by which the host knows how far its clock is from this one."""
        return ListSpansResponse(now=time.monotonic_ns(), spans=list(self._kept))


SPANS = Spans()
"""Those of this agent, of which a guest has one."""
