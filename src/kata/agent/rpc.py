"""The services of the agent: which method runs what.

Semantics are upstream's (`src/agent/src/rpc.rs`); docs/agent.md lists where this agent differs.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from kata.agent import clock, entropy, files, hotplug, inspect, network, resize, route, volume
from kata.agent.device import HANDLERS
from kata.agent.forward import list_forward_services
from kata.agent.hold import HeldError, Hold, list_checkpoint_services
from kata.agent.nameserver import list_name_services
from kata.agent.options import Options
from kata.agent.sandbox import SHARE, Sandbox
from kata.agent.spans import SPANS
from kata.agent.stats import read_network, read_stats
from kata.agent.storage import resize_ephemeral
from kata.agent.template import list_template_services
from kata.agent.termination import read_termination_log
from kata.agent.uevent import Uevents
from kata.errors import UnsupportedError, UsageError
from kata.protocol.messages import agent, health, types
from kata.protocol.messages import inspect as inspection
from kata.protocol.protobuf import Message
from kata.transport.netlink import Netlink, open_netlink
from kata.transport.ttrpc import Method, Services

VERSION = "0.1.0"
_API_VERSION = "0.0.1"
_EMPTY = types.Empty()

_REFUSED = {
    "SetPolicy": "it has no policy engine",
    "AddSwap": "it has no swap",
    "AddSwapPath": "it has no swap",
    "MemAgentMemcgSet": "it has no memory agent",
    "MemAgentCompactSet": "it has no memory agent",
    "GetIPTables": "its image has no iptables",
    "SetIPTables": "its image has no iptables",
}

_TIMED = frozenset(
    {"CreateSandbox", "UpdateInterface", "UpdateRoutes", "CreateContainer", "StartContainer", "ExecProcess"}
)
"""The calls that make up a start, for the host's timeline."""

_WAITS = frozenset({"WaitProcess", "ReadStdout", "ReadStderr", "GetOOMEvent"})
"""The calls that wait for something to happen, and lose nothing when they are ended."""

Handler = Callable[[Any], Awaitable[Message]]


class HealthService:
    async def check(self, _: Message) -> Message:
        return health.HealthCheckResponse(status=health.ServingStatus.SERVING)

    async def version(self, _: Message) -> Message:
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
        if not request.data:
            process.close_stdin()
            return agent.WriteStreamResponse()
        written = await process.stdin.write(request.data)
        if not written:
            raise HeldError("the guest is being saved")
        return agent.WriteStreamResponse(len=written)

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

    async def stats_container(self, request: agent.StatsContainerRequest) -> Message:
        container = self._sandbox.find_container(request.container_id)
        return agent.StatsContainerResponse(cgroup_stats=read_stats(container.cgroup), network_stats=read_network())

    async def get_diagnostic_data(self, request: agent.GetDiagnosticDataRequest) -> Message:
        if request.log_type != "termination_log":
            raise UsageError(f"there is no diagnostic data of type {request.log_type!r}")
        container = self._sandbox.find_container(request.container_id)
        return agent.GetDiagnosticDataResponse(data=read_termination_log(container.id, container.spec))


class GuestService:
    """The calls that are about the guest and no container of it."""

    def __init__(self, sandbox: Sandbox, uevents: Uevents, options: Options) -> None:
        self._sandbox = sandbox
        self._uevents = uevents
        self._options = options
        self._netlink: Netlink | None = None

    def _open_netlink(self) -> Netlink:
        self._netlink = self._netlink or open_netlink()
        return self._netlink

    async def update_interface(self, request: agent.UpdateInterfaceRequest) -> Message:
        interface = request.interface
        if interface is None:
            raise UsageError("the request to update an interface has no interface")
        what = f"network interface {interface.name} ({interface.hwAddr})"
        timeout = self._options.hotplug_timeout
        await self._uevents.wait_for(lambda: network.find_interface(interface), what, timeout=timeout)
        network.update_interface(self._open_netlink(), interface)
        return interface

    async def update_routes(self, request: agent.UpdateRoutesRequest) -> Message:
        if request.routes is None:
            raise UsageError("the request to update routes has no routes")
        route.update_routes(self._open_netlink(), request.routes.Routes, request.routes.policy)
        return agent.Routes(Routes=route.list_routes(self._open_netlink()))

    async def list_interfaces(self, _: agent.ListInterfacesRequest) -> Message:
        return agent.Interfaces(Interfaces=network.list_interfaces(self._open_netlink()))

    async def list_processes(self, request: inspection.ListProcessesRequest) -> Message:
        container = self._sandbox.find_container(request.container_id)
        return inspection.ListProcessesResponse(processes=inspect.list_processes(container.cgroup.list_pids()))

    async def list_spans(self, _: types.Empty) -> Message:
        return SPANS.describe()

    async def list_routes(self, _: agent.ListRoutesRequest) -> Message:
        return agent.Routes(Routes=route.list_routes(self._open_netlink()))

    async def add_neighbours(self, request: agent.AddARPNeighborsRequest) -> Message:
        if request.neighbors is None:
            raise UsageError("the request to add neighbours has no neighbours")
        network.add_neighbours(self._open_netlink(), request.neighbors.ARPNeighbors)
        return _EMPTY

    async def online(self, request: agent.OnlineCPUMemRequest) -> Message:
        await hotplug.online(self._uevents, request.nb_cpus, memory=not request.cpu_only)
        return _EMPTY

    async def probe_memory(self, request: agent.MemHotplugByProbeRequest) -> Message:
        hotplug.probe_memory(request.memHotplugProbeAddr)
        return _EMPTY

    async def get_details(self, request: agent.GuestDetailsRequest) -> Message:
        details = agent.AgentDetails(
            version=VERSION,
            init_daemon=os.getpid() == 1,
            device_handlers=list(HANDLERS),
            storage_handlers=self._sandbox.storages.drivers,
            supports_seccomp=True,
        )
        return agent.GuestDetailsResponse(
            mem_block_size_bytes=hotplug.read_block_size() if request.mem_block_size else 0,
            support_mem_hotplug_probe=request.mem_hotplug_probe and hotplug.has_probe(),
            agent_details=details,
        )

    async def reseed(self, request: agent.ReseedRandomDevRequest) -> Message:
        entropy.reseed(request.data)
        return _EMPTY

    async def set_time(self, request: agent.SetGuestDateTimeRequest) -> Message:
        clock.set_time(request.Sec, request.Usec)
        return _EMPTY

    async def copy_file(self, request: agent.CopyFileRequest) -> Message:
        files.copy_file(SHARE, request)
        return _EMPTY

    async def get_metrics(self, _: agent.GetMetricsRequest) -> Message:
        from kata.agent.metrics import render_metrics  # noqa: PLC0415 - few guests are ever scraped

        return agent.Metrics(metrics=render_metrics())

    async def measure_volume(self, request: agent.VolumeStatsRequest) -> Message:
        return volume.measure_volume(request.volume_guest_path)

    async def resize_volume(self, request: agent.ResizeVolumeRequest) -> Message:
        await resize.resize_volume(request.volume_guest_path, request.size, self._uevents)
        return _EMPTY

    async def touch_mounts(self, _: agent.RemoveStaleVirtiofsShareMountsRequest) -> Message:
        volume.touch_mounts(SHARE)
        return _EMPTY

    async def resize_ephemeral(self, request: agent.UpdateEphemeralMountsRequest) -> Message:
        resize_ephemeral(request.storages)
        return _EMPTY


def _refuse(name: str, reason: str) -> Handler:
    async def refuse(_: Message) -> Message:
        raise UnsupportedError(f"{name} is not implemented in this guest: {reason}")

    return refuse


def _time(name: str, handler: Handler) -> Handler:
    if name not in _TIMED:
        return handler

    async def timed(request: Any) -> Message:
        with SPANS.measure(name):
            return await handler(request)

    return timed


def build_services(sandbox: Sandbox, uevents: Uevents, options: Options, finish: Callable[[], None]) -> Services:
    """The tables of all services."""
    own, guest, up = AgentService(sandbox, finish), GuestService(sandbox, uevents, options), HealthService()
    hold = Hold(sandbox)

    def fit(name: str, handler: Handler) -> Handler:
        return hold.end_by_hold(handler) if name in _WAITS else _time(name, handler)

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
        ("StatsContainer", agent.StatsContainerRequest, own.stats_container),
        ("GetDiagnosticData", agent.GetDiagnosticDataRequest, own.get_diagnostic_data),
        ("UpdateInterface", agent.UpdateInterfaceRequest, guest.update_interface),
        ("UpdateRoutes", agent.UpdateRoutesRequest, guest.update_routes),
        ("ListInterfaces", agent.ListInterfacesRequest, guest.list_interfaces),
        ("ListRoutes", agent.ListRoutesRequest, guest.list_routes),
        ("AddARPNeighbors", agent.AddARPNeighborsRequest, guest.add_neighbours),
        ("OnlineCPUMem", agent.OnlineCPUMemRequest, guest.online),
        ("MemHotplugByProbe", agent.MemHotplugByProbeRequest, guest.probe_memory),
        ("GetGuestDetails", agent.GuestDetailsRequest, guest.get_details),
        ("ReseedRandomDev", agent.ReseedRandomDevRequest, guest.reseed),
        ("SetGuestDateTime", agent.SetGuestDateTimeRequest, guest.set_time),
        ("CopyFile", agent.CopyFileRequest, guest.copy_file),
        ("GetMetrics", agent.GetMetricsRequest, guest.get_metrics),
        ("GetVolumeStats", agent.VolumeStatsRequest, guest.measure_volume),
        ("ResizeVolume", agent.ResizeVolumeRequest, guest.resize_volume),
        ("RemoveStaleVirtiofsShareMounts", agent.RemoveStaleVirtiofsShareMountsRequest, guest.touch_mounts),
        ("UpdateEphemeralMounts", agent.UpdateEphemeralMountsRequest, guest.resize_ephemeral),
        *((name, Message, _refuse(name, reason)) for name, reason in _REFUSED.items()),
    )
    return {
        "grpc.AgentService": {name: Method(request, fit(name, handler)) for name, request, handler in rows},
        inspection.SERVICE: {
            "ListProcesses": Method(inspection.ListProcessesRequest, guest.list_processes),
            "ListSpans": Method(types.Empty, guest.list_spans),
        },
        **list_forward_services(),
        **list_name_services(hold),
        **clock.list_clock_services(),
        **sandbox.storages.published.list_services(),
        **list_template_services(sandbox),
        **list_checkpoint_services(hold),
        **files.list_file_services(SHARE),
        "grpc.Health": {
            "Check": Method(health.CheckRequest, up.check),
            "Version": Method(health.CheckRequest, up.version),
        },
    }
