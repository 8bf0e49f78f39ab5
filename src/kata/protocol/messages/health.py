"""Messages of `grpc.Health`.

Names and numbers are those of upstream's `health.proto`; a peer reads nothing else.
"""

from __future__ import annotations

from enum import IntEnum

from kata.protocol.protobuf import Message, int32, string


class ServingStatus(IntEnum):
    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2


class CheckRequest(Message):
    service: str = string(1)


class HealthCheckResponse(Message):
    status: int = int32(1)


class VersionCheckResponse(Message):
    grpc_version: str = string(1)
    agent_version: str = string(2)
