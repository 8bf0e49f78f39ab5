"""Network values of the agent's protocol.

Names and numbers are those of upstream's `types.proto`, unless it is said.
"""

from __future__ import annotations

from enum import IntEnum

from kata.protocol.protobuf import Message, int32, message, repeated, string, uint32, uint64


class IPFamily(IntEnum):
    V4 = 0
    V6 = 1


class FSGroupChangePolicy(IntEnum):
    ALWAYS = 0
    ONROOTMISMATCH = 1


class IPAddress(Message):
    family: int = int32(1)
    address: str = string(2)
    mask: str = string(3)


class Interface(Message):
    device: str = string(1)
    name: str = string(2)
    IPAddresses: list[IPAddress] = repeated(3, IPAddress)
    mtu: int = uint64(4)
    hwAddr: str = string(5)
    devicePath: str = string(6)
    type: str = string(7)
    raw_flags: int = uint32(8)


class NextHop(Message):
    """One of several next hops of a route. Not upstream's."""

    gateway: str = string(1)
    device: str = string(2)
    flags: int = uint32(3)
    weight: int = uint32(4)


class Route(Message):
    """A route. Fields from 100 on are not upstream's, whose agent skips them."""

    dest: str = string(1)
    gateway: str = string(2)
    device: str = string(3)
    source: str = string(4)
    scope: int = uint32(5)
    family: int = int32(6)
    flags: int = uint32(7)
    mtu: int = uint32(8)
    priority: int = uint32(100)
    kind: int = uint32(101)
    tos: int = uint32(102)
    hops: list[NextHop] = repeated(103, NextHop)
    table: int = uint32(104)


class Policy(Message):
    """Policy routing: the routes of tables other than main, and all rules. Not upstream's.

    A rule is what the kernel of the host says of it, an RTM_NEWRULE message without its header. No rules: those that
    there are.
    """

    routes: list[Route] = repeated(1, Route)
    rules: list[bytes] = repeated(2, "bytes")


class ARPNeighbor(Message):
    toIPAddress: IPAddress | None = message(1, IPAddress)
    device: str = string(2)
    lladdr: str = string(3)
    state: int = int32(4)
    flags: int = int32(5)


class Empty(Message):
    """`google.protobuf.Empty`: what a call answers that has nothing to say."""
