"""Messages of `kata.agent.v1.Clock`, by which the host keeps the guest's clock right.

This project's agent offers it beside upstream's services, whose SetGuestDateTime can only jump, to a time that is old
by the length of the call. `Compare` answers an empty request with a `Reading`; `Correct` takes a `Correction`.
"""

from __future__ import annotations

from kata.protocol.protobuf import Message, int64

SERVICE = "kata.agent.v1.Clock"


class Reading(Message):
    """The guest's time since the epoch."""

    nanoseconds: int = int64(1)


class Correction(Message):
    """What the guest's clock is to gain, or to lose where negative."""

    nanoseconds: int = int64(1)
