"""Messages of `kata.agent.v1.Volumes`, by which the host tells how a volume that the guest has a copy of is now.

This project's agent offers it beside upstream's services, whose `watchable-bind` storage looks every two seconds.
`Publish` takes a `Version` and answers with nothing; from then on the agent does not look by itself.
"""

from __future__ import annotations

from kata.protocol.protobuf import Message, raw, repeated, string, uint32

SERVICE = "kata.agent.v1.Volumes"


class File(Message):
    """A directory, a file with its content, or a link with its target; `mode` as st_mode of stat(2) tells which."""

    path: str = string(1)
    mode: int = uint32(2)
    uid: int = uint32(3)
    gid: int = uint32(4)
    data: bytes = raw(5)


class Version(Message):
    """The whole of a volume. Paths are relative to it; `.` is the volume itself."""

    mount_point: str = string(1)
    files: list[File] = repeated(2, File)
