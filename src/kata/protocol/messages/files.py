"""Messages of `kata.agent.v1.Files`, by which the host takes back what CopyFile brought: `Remove`, answered by Empty.

This project's agent offers it beside upstream's services, which have no such call.
"""

from __future__ import annotations

from kata.protocol.protobuf import Message, string

SERVICE = "kata.agent.v1.Files"


class RemoveRequest(Message):
    """A path below the directory where CopyFile makes files. What is there goes, with all below it."""

    path: str = string(1)
