"""Messages of `containerd.task.v2.Task` and `containerd.task.v3.Task`, the service that containerd calls in its shims.

Names and numbers are those of containerd's `runtime/task/v2/shim.proto`, `types/task/task.proto`, `types/mount.proto`,
`types/introspection.proto` and `types/runtimeoptions/v1/api.proto`.
"""

from __future__ import annotations

from enum import IntEnum

from kata.protocol.messages.google import Any, Timestamp
from kata.protocol.protobuf import Message, boolean, message, raw, repeated, string, string_map, uint32

SERVICES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
OPTIONS_TYPE = "runtimeoptions.v1.Options"


class TaskStatus(IntEnum):
    UNKNOWN = 0
    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    PAUSING = 5


class Mount(Message):
    type: str = string(1)
    source: str = string(2)
    target: str = string(3)
    options: list[str] = repeated(4, "string")


class Options(Message):
    """The runtime's options in containerd's configuration, or of `ctr run --runtime-config-path`."""

    type_url: str = string(1)
    config_path: str = string(2)
    config_body: bytes = raw(3)


class CreateTaskRequest(Message):
    id: str = string(1)
    bundle: str = string(2)
    rootfs: list[Mount] = repeated(3, Mount)
    terminal: bool = boolean(4)
    stdin: str = string(5)
    stdout: str = string(6)
    stderr: str = string(7)
    checkpoint: str = string(8)
    parent_checkpoint: str = string(9)
    options: Any | None = message(10, Any)


class PidResponse(Message):
    """What Create and Start answer."""

    pid: int = uint32(1)


class ProcessRequest(Message):
    """What Start, Delete, State and Wait take: an empty `exec_id` means the container's first process."""

    id: str = string(1)
    exec_id: str = string(2)


class TaskRequest(Message):
    """What Pids, Pause, Resume, Stats and Connect take."""

    id: str = string(1)


class DeleteResponse(Message):
    pid: int = uint32(1)
    exit_status: int = uint32(2)
    exited_at: Timestamp | None = message(3, Timestamp)


class ExecProcessRequest(Message):
    id: str = string(1)
    exec_id: str = string(2)
    terminal: bool = boolean(3)
    stdin: str = string(4)
    stdout: str = string(5)
    stderr: str = string(6)
    spec: Any | None = message(7, Any)


class ResizePtyRequest(Message):
    id: str = string(1)
    exec_id: str = string(2)
    width: int = uint32(3)
    height: int = uint32(4)


class StateResponse(Message):
    id: str = string(1)
    bundle: str = string(2)
    pid: int = uint32(3)
    status: int = uint32(4)
    stdin: str = string(5)
    stdout: str = string(6)
    stderr: str = string(7)
    terminal: bool = boolean(8)
    exit_status: int = uint32(9)
    exited_at: Timestamp | None = message(10, Timestamp)
    exec_id: str = string(11)


class KillRequest(Message):
    id: str = string(1)
    exec_id: str = string(2)
    signal: int = uint32(3)
    all: bool = boolean(4)


class CloseIORequest(Message):
    id: str = string(1)
    exec_id: str = string(2)
    stdin: bool = boolean(3)


class ProcessInfo(Message):
    pid: int = uint32(1)
    info: Any | None = message(2, Any)


class PidsResponse(Message):
    processes: list[ProcessInfo] = repeated(1, ProcessInfo)


class CheckpointTaskRequest(Message):
    id: str = string(1)
    path: str = string(2)
    options: Any | None = message(3, Any)


CHECKPOINT_OPTIONS_TYPE = "containerd.runc.v1.CheckpointOptions"


class CheckpointOptions(Message):
    """What clients say for any runtime. `exit` ends the task; `image_path` is where to save it."""

    exit: bool = boolean(1)
    image_path: str = string(8)


class UpdateTaskRequest(Message):
    id: str = string(1)
    resources: Any | None = message(2, Any)
    annotations: dict[str, str] = string_map(3, "string")


class WaitResponse(Message):
    exit_status: int = uint32(1)
    exited_at: Timestamp | None = message(2, Timestamp)


class StatsResponse(Message):
    stats: Any | None = message(1, Any)


class ConnectResponse(Message):
    shim_pid: int = uint32(1)
    task_pid: int = uint32(2)
    version: str = string(3)


class ShutdownRequest(Message):
    id: str = string(1)
    now: bool = boolean(2)


class RuntimeVersion(Message):
    version: str = string(1)
    revision: str = string(2)


class RuntimeInfo(Message):
    """What the flag `-info` prints."""

    name: str = string(1)
    version: RuntimeVersion | None = message(2, RuntimeVersion)
    options: Any | None = message(3, Any)
    features: Any | None = message(4, Any)
    annotations: dict[str, str] = string_map(5, "string")
