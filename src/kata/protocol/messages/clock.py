"""Messages of `kata.agent.v1.Clock`, by which the host keeps the guest's clock right.

This project's agent offers it beside upstream's services, whose SetGuestDateTime can only jump, to a time that is old
by the length of the call. `Compare` answers an empty request with a `Reading`; `Correct` takes a `Correction`.
"""

from __future__ import annotations

from kata.protocol.protobuf import Message, int64

SERVICE = "kata.agent.v1.Clock"


class Reading(Message):
    """The guest's time since the epoch, and by how much it is ahead where the guest can read its host's clock too.

    `uncertainty` is by how much that may be wrong; 0 where there is nothing to be wrong.
    """

    nanoseconds: int = int64(1)
    ahead: int = int64(2)
    uncertainty: int = int64(3)


class Correction(Message):
    """What the guest's clock is to gain, or to lose where negative."""

    nanoseconds: int = int64(1)
