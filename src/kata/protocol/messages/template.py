"""Messages of `kata.agent.v1.Template`, by which a guest is saved for others to be copies of it.

This project's agent offers it beside upstream's services. `Prepare` is asked before the guest is saved and answers an
empty message; what it leaves undone costs memory and time and nothing else. `Wake` is asked of each copy, first of all,
and again of one that waited to be a sandbox's. `Rehearse` is for those that wait: it takes a CreateSandboxRequest, and
leaves the guest as it was, but that the code of a container's start has been run.
"""

from __future__ import annotations

from kata.protocol.protobuf import Message, int64, raw, repeated

SERVICE = "kata.agent.v1.Template"


class Waking(Message):
    """What a copy must not have in common with the others, and where it finds what was added to it.

    `entropy` is for its random number generator, `nanoseconds` the time since the epoch. `slots` are the root bus's
    hot-plug slots, as their PCI device numbers, that have become full.
    """

    entropy: bytes = raw(1)
    nanoseconds: int = int64(2)
    slots: list[int] = repeated(3, "uint32")
