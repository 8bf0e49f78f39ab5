"""Volume statistics of the agent's protocol.

Names and numbers are those of upstream's `csi.proto`; a peer reads nothing else.
"""

from __future__ import annotations

from enum import IntEnum

from kata.protocol.protobuf import Message, boolean, int32, message, repeated, string, uint64


class Unit(IntEnum):
    UNKNOWN = 0
    BYTES = 1
    INODES = 2


class VolumeUsage(Message):
    available: int = uint64(1)
    total: int = uint64(2)
    used: int = uint64(3)
    unit: int = int32(4)


class VolumeCondition(Message):
    abnormal: bool = boolean(1)
    message: str = string(2)


class VolumeStatsResponse(Message):
    usage: list[VolumeUsage] = repeated(1, VolumeUsage)
    volume_condition: VolumeCondition | None = message(2, VolumeCondition)
