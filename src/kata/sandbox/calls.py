"""The methods of `kata.sandbox.v1.Sandbox`: each turns a message into a call of the sandbox."""

import asyncio
import json

from kata.protocol.jsonobject import parse_object
from kata.protocol.messages import sandbox as wire
from kata.protocol.messages.types import Empty
from kata.protocol.text import clean_text
from kata.sandbox.sandbox import Sandbox
from kata.sandbox.stats import describe_stats
from kata.transport.ttrpc import Method, Services


def list_services(sandbox: Sandbox) -> Services:
    """Return the table that a ttrpc server serves."""
    calls = _Calls(sandbox)
    return {
        wire.SERVICE: {
            "CreateContainer": Method(wire.CreateContainerRequest, calls.create_container),
            "StartContainer": Method(wire.ContainerRequest, calls.start_container),
            "DeleteContainer": Method(wire.DeleteContainerRequest, calls.delete_container),
            "SignalProcess": Method(wire.SignalProcessRequest, calls.signal_process),
            "ExecProcess": Method(wire.ExecProcessRequest, calls.exec_process),
            "WaitProcess": Method(wire.WaitProcessRequest, calls.wait_process),
            "PauseContainer": Method(wire.ContainerRequest, calls.pause_container),
            "ResumeContainer": Method(wire.ContainerRequest, calls.resume_container),
            "UpdateContainer": Method(wire.UpdateContainerRequest, calls.update_container),
            "StateContainer": Method(wire.ContainerRequest, calls.describe_container),
            "StatsContainer": Method(wire.ContainerRequest, calls.stat_container),
            "Checkpoint": Method(wire.CheckpointRequest, calls.checkpoint),
            "ListProcesses": Method(wire.ContainerRequest, calls.list_processes),
        }
    }


class _Calls:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def create_container(self, request: wire.CreateContainerRequest) -> Empty:
        await self._sandbox.create_container(request.container_id, request.bundle, request.pid)
        return Empty()

    async def start_container(self, request: wire.ContainerRequest) -> Empty:
        await self._sandbox.start_container(request.container_id)
        return Empty()

    async def delete_container(self, request: wire.DeleteContainerRequest) -> Empty:
        await self._sandbox.delete_container(request.container_id, force=request.force)
        return Empty()

    async def signal_process(self, request: wire.SignalProcessRequest) -> Empty:
        container = self._sandbox.find_container(request.container_id)
        await container.signal(request.exec_id, request.signal, everyone=request.everyone)
        return Empty()

    async def exec_process(self, request: wire.ExecProcessRequest) -> Empty:
        process = parse_object(request.process, "the process")
        await self._sandbox.exec(request.container_id, request.exec_id, process)
        return Empty()

    async def wait_process(self, request: wire.WaitProcessRequest) -> wire.WaitProcessResponse:
        process = self._sandbox.find_container(request.container_id).find_process(request.exec_id)
        status = await asyncio.shield(process.exited)
        return wire.WaitProcessResponse(status=status, exited_at=process.exited_at)

    async def pause_container(self, request: wire.ContainerRequest) -> Empty:
        await self._sandbox.find_container(request.container_id).pause()
        return Empty()

    async def resume_container(self, request: wire.ContainerRequest) -> Empty:
        await self._sandbox.find_container(request.container_id).resume()
        return Empty()

    async def update_container(self, request: wire.UpdateContainerRequest) -> Empty:
        resources = parse_object(request.resources, "the resources document")
        await self._sandbox.update_container(request.container_id, resources)
        return Empty()

    async def checkpoint(self, request: wire.CheckpointRequest) -> Empty:
        await self._sandbox.checkpoint(request.container_id, request.directory, leave_running=request.leave_running)
        return Empty()

    async def describe_container(self, request: wire.ContainerRequest) -> wire.DocumentResponse:
        return wire.DocumentResponse(document=json.dumps(self._sandbox.find_container(request.container_id).describe()))

    async def stat_container(self, request: wire.ContainerRequest) -> wire.DocumentResponse:
        stats = await self._sandbox.stat_container(request.container_id)
        return wire.DocumentResponse(document=json.dumps(describe_stats(stats)))

    async def list_processes(self, request: wire.ContainerRequest) -> wire.ListProcessesResponse:
        processes = await self._sandbox.require_running().guest.list_processes(request.container_id)
        header = f"{'UID':<8} {'PID':>7} {'PPID':>7} {'CMD'}"
        lines = [
            f"{p.uid:<8} {p.pid:>7} {p.parent:>7} {clean_text(' '.join(p.arguments) or p.name)}" for p in processes
        ]
        return wire.ListProcessesResponse(pids=[p.pid for p in processes], lines=[header, *lines])
