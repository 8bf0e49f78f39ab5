"""Messages of `containerd.runtime.sandbox.v1.Sandbox`: sandboxes that containerd 2 starts without a first container.

Names and numbers are those of containerd's `api/runtime/sandbox/v1/sandbox.proto`, `api/types/metrics.proto` and
`api/types/platform.proto`.
"""

from __future__ import annotations

from kata.protocol.messages.google import Any, Timestamp
from kata.protocol.messages.task import Mount
from kata.protocol.protobuf import Message, boolean, message, repeated, string, string_map, uint32

SERVICE = "containerd.runtime.sandbox.v1.Sandbox"


class CreateSandboxRequest(Message):
    sandbox_id: str = string(1)
    bundle_path: str = string(2)
    rootfs: list[Mount] = repeated(3, Mount)
    options: Any | None = message(4, Any)
    netns_path: str = string(5)
    annotations: dict[str, str] = string_map(6, "string")


class SandboxRequest(Message):
    """What StartSandbox, Platform, WaitSandbox, PingSandbox, ShutdownSandbox and SandboxMetrics take."""

    sandbox_id: str = string(1)


class StartSandboxResponse(Message):
    pid: int = uint32(1)
    created_at: Timestamp | None = message(2, Timestamp)
    spec: Any | None = message(3, Any)


class Platform(Message):
    """In the words of Go: `linux`, `amd64`."""

    os: str = string(1)
    architecture: str = string(2)
    variant: str = string(3)


class PlatformResponse(Message):
    platform: Platform | None = message(1, Platform)


class StopSandboxRequest(Message):
    sandbox_id: str = string(1)
    timeout_secs: int = uint32(2)


class WaitSandboxResponse(Message):
    exit_status: int = uint32(1)
    exited_at: Timestamp | None = message(2, Timestamp)


class SandboxStatusRequest(Message):
    sandbox_id: str = string(1)
    verbose: bool = boolean(2)


class SandboxStatusResponse(Message):
    sandbox_id: str = string(1)
    pid: int = uint32(2)
    state: str = string(3)
    info: dict[str, str] = string_map(4, "string")
    created_at: Timestamp | None = message(5, Timestamp)
    exited_at: Timestamp | None = message(6, Timestamp)
    extra: Any | None = message(7, Any)


class Metric(Message):
    timestamp: Timestamp | None = message(1, Timestamp)
    id: str = string(2)
    data: Any | None = message(3, Any)


class SandboxMetricsResponse(Message):
    metrics: Metric | None = message(1, Metric)
