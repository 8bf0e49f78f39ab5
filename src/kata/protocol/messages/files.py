"""Messages of `kata.agent.v1.Files`, about what CopyFile brought. Each is answered by Empty.

This project's agent offers it beside upstream's services, which have no such calls.
"""

from __future__ import annotations

from kata.protocol.protobuf import Message, raw, string

SERVICE = "kata.agent.v1.Files"


class RemoveRequest(Message):
    """A path below the directory where CopyFile makes files. What is there goes, with all below it."""

    path: str = string(1)


class RewriteRequest(Message):
    """A file below that directory, and all of its new content. It stays the same file, with its owner and mode."""

    path: str = string(1)
    data: bytes = raw(2)
