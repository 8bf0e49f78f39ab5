"""The services of the agent: which method runs what.

Semantics are upstream's (`src/agent/src/rpc.rs`); docs/agent.md lists where this agent differs.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from kata.agent.sandbox import Sandbox
from kata.errors import UnsupportedError, UsageError
from kata.protocol.messages import agent, health, types
from kata.protocol.protobuf import Message
from kata.transport.ttrpc import Method, Services

VERSION = "0.1.0"
_API_VERSION = "0.0.1"
_EMPTY = types.Empty()

Handler = Callable[[Any], Awaitable[Message]]


class HealthService:
    async def check(self, _: health.CheckRequest) -> Message:
        return health.HealthCheckResponse(status=health.ServingStatus.SERVING)

    async def version(self, _: health.CheckRequest) -> Message:
        return health.VersionCheckResponse(grpc_version=_API_VERSION, agent_version=VERSION)


class AgentService:
    """One method a call, thin: the work is done by the noun that it is about."""

    def __init__(self, sandbox: Sandbox, finish: Callable[[], None]) -> None:
        """`finish` is called when the host is done with the guest."""
        self._sandbox = sandbox
        self._finish = finish

    async def create_sandbox(self, request: agent.CreateSandboxRequest) -> Message:
        await self._sandbox.create(request)
        return _EMPTY

    async def destroy_sandbox(self, _: agent.DestroySandboxRequest) -> Message:
        await self._sandbox.destroy()
        self._finish()
        return _EMPTY

    async def create_container(self, request: agent.CreateContainerRequest) -> Message:
        await self._sandbox.create_container(request)
        return _EMPTY

    async def start_container(self, request: agent.StartContainerRequest) -> Message:
        await self._sandbox.start_container(request.container_id)
        return _EMPTY

    async def remove_container(self, request: agent.RemoveContainerRequest) -> Message:
        await self._sandbox.remove_container(request.container_id, timeout=request.timeout)
        return _EMPTY

    async def exec_process(self, request: agent.ExecProcessRequest) -> Message:
        container = self._sandbox.find_container(request.container_id)
        if request.process is None:
            raise UsageError(f"the request to execute {request.exec_id} in {request.container_id} has no process")
        await container.execute(request.exec_id, request.process, request.string_user)
        return _EMPTY

    async def signal_process(self, request: agent.SignalProcessRequest) -> Message:
        self._sandbox.find_container(request.container_id).signal(request.exec_id, request.signal)
        return _EMPTY

    async def wait_process(self, request: agent.WaitProcessRequest) -> Message:
        status = await self._sandbox.wait_process(request.container_id, request.exec_id)
        return agent.WaitProcessResponse(status=status)

    async def write_stdin(self, request: agent.WriteStreamRequest) -> Message:
        """Empty data ends stdin, as upstream's newer runtime does it."""
        process = self._sandbox.find_container(request.container_id).find_process(request.exec_id)
        if request.data:
            await process.stdin.write(request.data)
        else:
            process.close_stdin()
        return agent.WriteStreamResponse(len=len(request.data))

    async def close_stdin(self, request: agent.CloseStdinRequest) -> Message:
        self._sandbox.find_container(request.container_id).find_process(request.exec_id).close_stdin()
        return _EMPTY

    async def read_stdout(self, request: agent.ReadStreamRequest) -> Message:
        return await self._read(request, error=False)

    async def read_stderr(self, request: agent.ReadStreamRequest) -> Message:
        return await self._read(request, error=True)

    async def _read(self, request: agent.ReadStreamRequest, *, error: bool) -> Message:
        process = self._sandbox.find_container(request.container_id).find_process(request.exec_id)
        return agent.ReadStreamResponse(data=await process.read(request.len, error=error))

    async def tty_win_resize(self, request: agent.TtyWinResizeRequest) -> Message:
        process = self._sandbox.find_container(request.container_id).find_process(request.exec_id)
        process.resize(request.row, request.column)
        return _EMPTY

    async def pause_container(self, request: agent.PauseContainerRequest) -> Message:
        self._sandbox.find_container(request.container_id).freeze(True)
        return _EMPTY

    async def resume_container(self, request: agent.ResumeContainerRequest) -> Message:
        self._sandbox.find_container(request.container_id).freeze(False)
        return _EMPTY

    async def update_container(self, request: agent.UpdateContainerRequest) -> Message:
        container = self._sandbox.find_container(request.container_id)
        if request.resources is not None:
            await container.update(request.resources)
        return _EMPTY

    async def get_oom_event(self, _: agent.GetOOMEventRequest) -> Message:
        return agent.OOMEvent(container_id=await self._sandbox.oom.next())


def _refuse(name: str, reason: str) -> Handler:
    async def refuse(_: Message) -> Message:
        raise UnsupportedError(f"{name} is not implemented in this guest: {reason}")

    return refuse


def build_services(sandbox: Sandbox, finish: Callable[[], None]) -> Services:
    """The tables of both services."""
    own, up = AgentService(sandbox, finish), HealthService()
    rows: tuple[tuple[str, type[Message], Handler], ...] = (
        ("CreateSandbox", agent.CreateSandboxRequest, own.create_sandbox),
        ("DestroySandbox", agent.DestroySandboxRequest, own.destroy_sandbox),
        ("CreateContainer", agent.CreateContainerRequest, own.create_container),
        ("StartContainer", agent.StartContainerRequest, own.start_container),
        ("RemoveContainer", agent.RemoveContainerRequest, own.remove_container),
        ("ExecProcess", agent.ExecProcessRequest, own.exec_process),
        ("SignalProcess", agent.SignalProcessRequest, own.signal_process),
        ("WaitProcess", agent.WaitProcessRequest, own.wait_process),
        ("WriteStdin", agent.WriteStreamRequest, own.write_stdin),
        ("CloseStdin", agent.CloseStdinRequest, own.close_stdin),
        ("ReadStdout", agent.ReadStreamRequest, own.read_stdout),
        ("ReadStderr", agent.ReadStreamRequest, own.read_stderr),
        ("TtyWinResize", agent.TtyWinResizeRequest, own.tty_win_resize),
        ("PauseContainer", agent.PauseContainerRequest, own.pause_container),
        ("ResumeContainer", agent.ResumeContainerRequest, own.resume_container),
        ("UpdateContainer", agent.UpdateContainerRequest, own.update_container),
        ("GetOOMEvent", agent.GetOOMEventRequest, own.get_oom_event),
        ("SetPolicy", agent.SetPolicyRequest, _refuse("SetPolicy", "it has no policy engine")),
    )
    return {
        "grpc.AgentService": {name: Method(request, handler) for name, request, handler in rows},
        "grpc.Health": {
            "Check": Method(health.CheckRequest, up.check),
            "Version": Method(health.CheckRequest, up.version),
        },
    }
