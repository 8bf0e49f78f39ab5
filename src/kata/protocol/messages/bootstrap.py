"""Messages of `containerd.runtime.bootstrap.v1`: how containerd 2.3 and newer tell a shim what it is started for.

Names and numbers are those of containerd's `api/runtime/bootstrap/v1/bootstrap.proto`.
"""

from __future__ import annotations

from kata.protocol.messages.google import Any
from kata.protocol.protobuf import Message, int32, message, repeated, string

LEVEL_DEBUG = -4
"""The least verbose of the levels that mean debugging: INFO is 0, TRACE -8."""


class Extension(Message):
    value: Any | None = message(1, Any)


class BootstrapParams(Message):
    """What stands on the standard input of `start`."""

    instance_id: str = string(1)
    namespace: str = string(2)
    log_level: int = int32(3)
    containerd_version: str = string(4)
    containerd_ttrpc_address: str = string(5)
    containerd_grpc_address: str = string(6)
    containerd_binary: str = string(7)
    extensions: list[Extension] = repeated(8, Extension)
    socket_dir: str = string(9)


class BootstrapResult(Message):
    """What `start` prints. `version` is that of the Task service: 2 or 3."""

    version: int = int32(1)
    address: str = string(2)
    protocol: str = string(3)
