"""The life of a sandbox, a container and a process, as tables."""

from enum import StrEnum

from kata.errors import StateError


class SandboxState(StrEnum):
    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


SANDBOX_MOVES = {
    SandboxState.CREATED: {SandboxState.STARTING, SandboxState.STOPPING},
    SandboxState.STARTING: {SandboxState.RUNNING, SandboxState.STOPPING},
    SandboxState.RUNNING: {SandboxState.STOPPING},
    SandboxState.STOPPING: {SandboxState.STOPPED},
    SandboxState.STOPPED: set[SandboxState](),
}


class Status(StrEnum):
    """A container's status. Source: OCI runtime specification, runtime.md#state; paused is runc's addition."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


STATUS_MOVES = {
    Status.CREATING: {Status.CREATED, Status.STOPPED},
    Status.CREATED: {Status.RUNNING, Status.STOPPED},
    Status.RUNNING: {Status.PAUSED, Status.STOPPED},
    Status.PAUSED: {Status.RUNNING, Status.STOPPED},
    Status.STOPPED: set[Status](),
}


def move_sandbox(sandbox: str, now: SandboxState, then: SandboxState) -> SandboxState:
    """Return `then`, or raise StateError where the table has no such move."""
    if then not in SANDBOX_MOVES[now]:
        raise StateError(f"sandbox {sandbox} is {now}; it cannot become {then}")
    return then


def move_container(container: str, now: Status, then: Status) -> Status:
    """Return `then`, or raise StateError where the table has no such move."""
    if then not in STATUS_MOVES[now]:
        raise StateError(f"container {container} is {now}; it cannot become {then}")
    return then
