"""Messages of `kata.sandbox.v1.Sandbox`, the service that each sandbox's daemon offers on its Unix socket.

The command line is a thin client of it. OCI documents (spec, process, resources, state) travel as JSON text, as their
specification writes them, so that nothing that an engine wrote is lost on the way.
"""

from __future__ import annotations

from kata.protocol.protobuf import Message, boolean, int32, int64, repeated, string, uint32

SERVICE = "kata.sandbox.v1.Sandbox"


class CreateContainerRequest(Message):
    """`pid` is the host process that stands for the container's init; its stdio came over the attach socket."""

    container_id: str = string(1)
    bundle: str = string(2)
    pid: int = int32(3)


class ContainerRequest(Message):
    """What StartContainer, PauseContainer, ResumeContainer, StateContainer, StatsContainer, ListProcesses take."""

    container_id: str = string(1)


class DeleteContainerRequest(Message):
    container_id: str = string(1)
    force: bool = boolean(2)


class SignalProcessRequest(Message):
    """`exec_id` is empty for the init process; `everyone` reaches all processes of the container."""

    container_id: str = string(1)
    exec_id: str = string(2)
    signal: int = uint32(3)
    everyone: bool = boolean(4)


class ExecProcessRequest(Message):
    """`process` is the OCI process as JSON; `pid` the host process that stands for it."""

    container_id: str = string(1)
    exec_id: str = string(2)
    process: str = string(3)
    pid: int = int32(4)


class WaitProcessRequest(Message):
    container_id: str = string(1)
    exec_id: str = string(2)


class WaitProcessResponse(Message):
    """`status` is the exit code, 128+n after signal n; `exited_at` is in nanoseconds since the epoch."""

    status: int = int32(1)
    exited_at: int = int64(2)


class UpdateContainerRequest(Message):
    """`resources` is OCI's linux.resources as JSON."""

    container_id: str = string(1)
    resources: str = string(2)


class CheckpointRequest(Message):
    """`directory` is an absolute path of the host."""

    container_id: str = string(1)
    directory: str = string(2)
    leave_running: bool = boolean(3)


class DocumentResponse(Message):
    """A JSON document: an OCI state, statistics, a description."""

    document: str = string(1)


class ListProcessesResponse(Message):
    """Processes inside the container: pids of the guest and one `ps` line each, the header first."""

    pids: list[int] = repeated(1, "int32")
    lines: list[str] = repeated(2, "string")
