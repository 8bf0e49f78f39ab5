"""Events that a shim sends to containerd, and the call that takes them there.

Names and numbers are those of containerd's `events/task.proto`, `types/event.proto` and
`services/ttrpc/events/v1/events.proto`.
"""

from __future__ import annotations

from kata.protocol.messages.google import Any, Timestamp
from kata.protocol.messages.task import Mount
from kata.protocol.protobuf import Message, boolean, message, repeated, string, uint32

SERVICE = "containerd.services.events.ttrpc.v1.Events"
PACKAGE = "containerd.events"


class Envelope(Message):
    timestamp: Timestamp | None = message(1, Timestamp)
    namespace: str = string(2)
    topic: str = string(3)
    event: Any | None = message(4, Any)


class ForwardRequest(Message):
    envelope: Envelope | None = message(1, Envelope)


class TaskIO(Message):
    stdin: str = string(1)
    stdout: str = string(2)
    stderr: str = string(3)
    terminal: bool = boolean(4)


class TaskCreate(Message):
    container_id: str = string(1)
    bundle: str = string(2)
    rootfs: list[Mount] = repeated(3, Mount)
    io: TaskIO | None = message(4, TaskIO)
    checkpoint: str = string(5)
    pid: int = uint32(6)


class TaskStart(Message):
    container_id: str = string(1)
    pid: int = uint32(2)


class TaskDelete(Message):
    container_id: str = string(1)
    pid: int = uint32(2)
    exit_status: int = uint32(3)
    exited_at: Timestamp | None = message(4, Timestamp)
    id: str = string(5)


class TaskExit(Message):
    container_id: str = string(1)
    id: str = string(2)
    pid: int = uint32(3)
    exit_status: int = uint32(4)
    exited_at: Timestamp | None = message(5, Timestamp)


class TaskOOM(Message):
    container_id: str = string(1)


class TaskExecAdded(Message):
    container_id: str = string(1)
    exec_id: str = string(2)


class TaskExecStarted(Message):
    container_id: str = string(1)
    exec_id: str = string(2)
    pid: int = uint32(3)


class TaskPaused(Message):
    container_id: str = string(1)


class TaskResumed(Message):
    container_id: str = string(1)


class TaskCheckpointed(Message):
    container_id: str = string(1)
    checkpoint: str = string(2)


TOPICS: dict[type[Message], str] = {
    TaskCreate: "/tasks/create",
    TaskStart: "/tasks/start",
    TaskDelete: "/tasks/delete",
    TaskExit: "/tasks/exit",
    TaskOOM: "/tasks/oom",
    TaskExecAdded: "/tasks/exec-added",
    TaskExecStarted: "/tasks/exec-started",
    TaskPaused: "/tasks/paused",
    TaskResumed: "/tasks/resumed",
    TaskCheckpointed: "/tasks/checkpointed",
}
