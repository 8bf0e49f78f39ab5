"""Messages of `kata.agent.v1.Forward`, by which the host reaches servers on the guest's loopback interface.

This project's agent offers it beside upstream's services. A connection is what `Connect` answers with. `Read` waits for
bytes and answers with none at the end; `Write` answers when all was taken, and without bytes it ends the direction.
"""

from __future__ import annotations

from kata.protocol.protobuf import Message, boolean, raw, uint32

SERVICE = "kata.agent.v1.Forward"


class ConnectRequest(Message):
    """A TCP port. Loopback has an address of each family; the one asked for is tried first."""

    port: int = uint32(1)
    ipv6: bool = boolean(2)


class Connection(Message):
    id: int = uint32(1)


class ReadRequest(Message):
    id: int = uint32(1)
    len: int = uint32(2)


class Data(Message):
    data: bytes = raw(1)


class WriteRequest(Message):
    id: int = uint32(1)
    data: bytes = raw(2)
