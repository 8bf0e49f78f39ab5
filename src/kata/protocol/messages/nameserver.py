"""Messages of `kata.agent.v1.NameServer`, by which the guest asks name servers in the pod's namespace on the host.

This project's agent offers it beside upstream's services. `Serve` tells at which addresses of the guest's loopback
interface the agent answers, at port 53; those of a `Serve` before are given up. `NextQuery` waits for what a program of
the guest has asked there, a message of RFC 1035, and `Answer` is what it hears, without data that nobody answered.
"""

from __future__ import annotations

from kata.protocol.protobuf import Message, boolean, raw, repeated, string, uint32

SERVICE = "kata.agent.v1.NameServer"
PORT = 53
LARGEST_MESSAGE = 0xFFFF


class Addresses(Message):
    addresses: list[str] = repeated(1, "string")


class Query(Message):
    id: int = uint32(1)
    address: str = string(2)
    tcp: bool = boolean(3)
    data: bytes = raw(4)


class Answer(Message):
    id: int = uint32(1)
    data: bytes = raw(2)
