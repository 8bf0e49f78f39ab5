"""What the agent timed, put on the host's clock."""

import time

from kata.observe.timeline import Phase
from kata.protocol.messages.inspect import ListSpansResponse
from kata.protocol.text import clean_text
from kata.sandbox.guest import Guest

_MOST = 256
_LONGEST_NAME = 64


async def read_guest_phases(guest: Guest, zero: float) -> list[Phase]:
    """Ask the agent for its spans. `zero` is the start of the timeline, in seconds of the host's monotonic clock.

    The agent read its clock at the middle of the call, give or take half its length. Raise GuestError, DeadlineError.
    """
    before = time.monotonic()
    answer = await guest.list_spans()
    after = time.monotonic()
    return place_spans(answer, ((before + after) / 2 - zero) * 1e3)


def place_spans(answer: ListSpansResponse, now_ms: float) -> list[Phase]:
    """Return the spans as phases of a timeline that `now_ms` had come to when the guest answered.

    What the guest says is anything: names are cleaned and cut, and spans that end before the timeline begins or after
    it are left out; those of a template's own boot do.
    """
    phases = []
    for span in answer.spans[:_MOST]:
        start = now_ms - (answer.now - span.start) / 1e6
        end = start + span.length / 1e6
        if 0 <= end <= now_ms + 1:
            name = clean_text(span.name[:_LONGEST_NAME])
            phases.append(Phase(name, max(start, 0.0), end - max(start, 0.0), span.failed, in_guest=True))
    return phases
