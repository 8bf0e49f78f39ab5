"""The guest as the host sees it: the agent's calls that a sandbox makes, each with its time limit.

What comes back is untrusted: frames are bounded by ttrpc, and no answer names a path or a length that the host obeys.
"""

import asyncio
import time
from typing import TypeVar

from kata.errors import Code, GuestError
from kata.observe.durations import Durations
from kata.protocol.messages import agent as wire
from kata.protocol.messages import clock, csi, files, forward, health, inspect, template, types, volumes
from kata.protocol.messages.types import Empty
from kata.protocol.protobuf import Buffer, Message
from kata.transport.ttrpc import Client

SERVICE = "grpc.AgentService"
REQUEST_TIMEOUT = 60.0
_STATS_TIMEOUT = 10.0
"""Seconds: whoever collects statistics asks one container after the other, and a guest that hangs holds up them all."""

_CLOCK_TIMEOUT = 5.0
_PREPARE_TIMEOUT = 120.0
_MAX_STATUS = 255
LOST_STATUS = 255
"""Exit code of a process whose end nobody saw, as runc's callers know it."""

Reply = TypeVar("Reply", bound=Message)


class Guest:
    """The agent at the other end of `client`. Times are in seconds; each call raises GuestError or DeadlineError."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.durations = Durations()
        self.verdict: asyncio.Future[int] | None = None
        """Where somebody finds out why a guest was lost, the exit code that its processes end with."""

    async def _call(
        self, method: str, request: Message, reply: type[Reply], *, timeout: float | None = REQUEST_TIMEOUT
    ) -> Reply:
        if timeout is None:  # a wait for something to happen: its length says nothing about the agent
            return await self.client.call(SERVICE, method, request, reply, timeout=None)
        start = time.monotonic()
        try:
            return await self.client.call(SERVICE, method, request, reply, timeout=timeout)
        finally:
            self.durations.note(f"grpc.{type(request).__name__}", time.monotonic() - start)

    async def find_lost_status(self) -> int:
        """Return the exit code of a process whose end the guest did not tell."""
        if self.verdict is None or not self.client.lost.is_set():
            return LOST_STATUS
        return await asyncio.shield(self.verdict)

    async def check(self, *, timeout: float) -> None:
        """Wait until the agent serves."""
        await self.client.call(
            "grpc.Health", "Check", health.CheckRequest(), health.HealthCheckResponse, timeout=timeout
        )

    async def create_sandbox(self, request: wire.CreateSandboxRequest) -> None:
        await self._call("CreateSandbox", request, Empty)

    async def destroy_sandbox(self, *, timeout: float) -> None:
        await self._call("DestroySandbox", wire.DestroySandboxRequest(), Empty, timeout=timeout)

    async def update_interface(self, interface: types.Interface) -> None:
        """Set up the network card with this link-layer address. The agent waits for one that is being plugged in."""
        await self._call("UpdateInterface", wire.UpdateInterfaceRequest(interface=interface), types.Interface)

    async def update_routes(self, routes: list[types.Route], policy: types.Policy | None) -> None:
        """Make these the guest's routes, and with `policy` those of other tables and the rules."""
        request = wire.UpdateRoutesRequest(routes=wire.Routes(Routes=routes, policy=policy))
        await self._call("UpdateRoutes", request, wire.Routes)

    async def add_neighbours(self, neighbours: list[types.ARPNeighbor]) -> None:
        request = wire.AddARPNeighborsRequest(neighbors=wire.ARPNeighbors(ARPNeighbors=neighbours))
        await self._call("AddARPNeighbors", request, Empty)

    async def create_container(self, request: wire.CreateContainerRequest) -> None:
        await self._call("CreateContainer", request, Empty)

    async def start_container(self, container: str) -> None:
        await self._call("StartContainer", wire.StartContainerRequest(container_id=container), Empty)

    async def remove_container(self, container: str, *, timeout: float) -> None:
        request = wire.RemoveContainerRequest(container_id=container, timeout=max(1, int(timeout)))
        await self._call("RemoveContainer", request, Empty, timeout=timeout + 1)

    async def exec_process(self, request: wire.ExecProcessRequest) -> None:
        await self._call("ExecProcess", request, Empty)

    async def signal_process(self, container: str, exec_id: str, signal: int, *, timeout: float) -> None:
        """Send a signal. An empty `exec_id` with SIGKILL reaches every process of the container."""
        request = wire.SignalProcessRequest(container_id=container, exec_id=exec_id, signal=signal)
        await self._call("SignalProcess", request, Empty, timeout=timeout)

    async def wait_process(self, container: str, exec_id: str) -> int:
        """Wait for the end of a process and return its exit code, 0 to 255."""
        request = wire.WaitProcessRequest(container_id=container, exec_id=exec_id)
        status = (await self._call("WaitProcess", request, wire.WaitProcessResponse, timeout=None)).status
        if not 0 <= status <= _MAX_STATUS:  # exit(2) keeps 8 bits: 256 would look like success
            raise GuestError(f"agent answered the exit code {status} for process {exec_id} of container {container}")
        return status

    async def read_stream(self, container: str, exec_id: str, stream: str, size: int) -> Buffer:
        """Wait for output of `Stdout` or `Stderr`: at most `size` bytes, none at the end of the stream."""
        request = wire.ReadStreamRequest(container_id=container, exec_id=exec_id, len=size)
        try:
            data = (await self._call(f"Read{stream}", request, wire.ReadStreamResponse, timeout=None)).data
        except GuestError as error:
            if error.status == Code.UNAVAILABLE:
                raise
            return b""
        if len(data) > size:
            raise GuestError(f"agent answered {len(data)} bytes of {stream}, more than the {size} asked for")
        return data

    async def write_stdin(self, container: str, exec_id: str, data: Buffer) -> None:
        request = wire.WriteStreamRequest(container_id=container, exec_id=exec_id, data=data)
        await self._call("WriteStdin", request, wire.WriteStreamResponse, timeout=None)

    async def close_stdin(self, container: str, exec_id: str) -> None:
        request = wire.CloseStdinRequest(container_id=container, exec_id=exec_id)
        await self._call("CloseStdin", request, Empty)

    async def resize_terminal(self, container: str, exec_id: str, rows: int, columns: int) -> None:
        request = wire.TtyWinResizeRequest(container_id=container, exec_id=exec_id, row=rows, column=columns)
        await self._call("TtyWinResize", request, Empty)

    async def pause_container(self, container: str) -> None:
        await self._call("PauseContainer", wire.PauseContainerRequest(container_id=container), Empty)

    async def resume_container(self, container: str) -> None:
        await self._call("ResumeContainer", wire.ResumeContainerRequest(container_id=container), Empty)

    async def update_container(self, request: wire.UpdateContainerRequest) -> None:
        await self._call("UpdateContainer", request, Empty)

    async def online(self, vcpus: int) -> None:
        """Have `vcpus` processors in use, and all the memory that was plugged in."""
        await self._call("OnlineCPUMem", wire.OnlineCPUMemRequest(wait=True, nb_cpus=vcpus), Empty)

    async def stat_container(self, container: str, *, timeout: float = _STATS_TIMEOUT) -> wire.StatsContainerResponse:
        request = wire.StatsContainerRequest(container_id=container)
        return await self._call("StatsContainer", request, wire.StatsContainerResponse, timeout=timeout)

    async def wait_oom(self) -> str:
        """Wait for the next container that ran out of memory, and return its id."""
        return (await self._call("GetOOMEvent", wire.GetOOMEventRequest(), wire.OOMEvent, timeout=None)).container_id

    async def list_processes(self, container: str) -> list[inspect.ProcessInfo]:
        """Return the container's processes. Only this project's agent can tell; another answers UNIMPLEMENTED."""
        request = inspect.ListProcessesRequest(container_id=container)
        reply = inspect.ListProcessesResponse
        answer = await self.client.call(inspect.SERVICE, "ListProcesses", request, reply, timeout=REQUEST_TIMEOUT)
        return answer.processes

    async def list_spans(self) -> inspect.ListSpansResponse:
        """Return what the agent did and when. Only this project's agent can tell."""
        reply = inspect.ListSpansResponse
        return await self.client.call(inspect.SERVICE, "ListSpans", Empty(), reply, timeout=_STATS_TIMEOUT)

    async def read_clock(self) -> clock.Reading:
        """Return the guest's time. Only this project's agent can tell it."""
        return await self._clock("Compare", Empty(), clock.Reading)

    async def correct_clock(self, nanoseconds: int) -> None:
        """Let the guest's clock gain, or lose where negative."""
        await self._clock("Correct", clock.Correction(nanoseconds=nanoseconds), Empty)

    async def _clock(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        return await self.client.call(clock.SERVICE, method, request, reply, timeout=_CLOCK_TIMEOUT)

    async def set_time(self, nanoseconds: int) -> None:
        """Let the guest's clock jump to a time since the epoch."""
        seconds, rest = divmod(nanoseconds, 1_000_000_000)
        await self._call("SetGuestDateTime", wire.SetGuestDateTimeRequest(Sec=seconds, Usec=rest // 1000), Empty)

    async def prepare_template(self) -> None:
        """Let the guest get ready to be saved for copies. Only this project's agent can; another says UNIMPLEMENTED."""
        await self.client.call(template.SERVICE, "Prepare", Empty(), Empty, timeout=_PREPARE_TIMEOUT)

    async def wake(self, entropy: bytes, slots: list[int], *, timeout: float) -> None:
        """Let a copy of a template become itself, and find what is in these slots of the root bus."""
        request = template.Waking(entropy=entropy, nanoseconds=time.time_ns(), slots=slots)
        await self.client.call(template.SERVICE, "Wake", request, Empty, timeout=timeout)

    async def connect_port(self, port: int, *, ipv6: bool) -> int:
        """Connect to a server on the guest's loopback and return the connection's number.

        Only this project's agent can; another answers UNIMPLEMENTED.
        """
        request = forward.ConnectRequest(port=port, ipv6=ipv6)
        return (await self._forward("Connect", request, forward.Connection)).id

    async def read_port(self, connection: int, size: int) -> bytes:
        """Wait for bytes of a connection, `size` at most; none at the end."""
        data = (await self._forward("Read", forward.ReadRequest(id=connection, len=size), forward.Data, wait=True)).data
        if len(data) > size:
            raise GuestError(f"agent answered {len(data)} bytes of a connection, more than the {size} asked for")
        return data

    async def write_port(self, connection: int, data: bytes) -> None:
        """Have a connection's server take bytes; without any, tell it that no more come."""
        await self._forward("Write", forward.WriteRequest(id=connection, data=data), Empty, wait=True)

    async def close_port(self, connection: int) -> None:
        await self._forward("Close", forward.Connection(id=connection), Empty)

    async def _forward(self, method: str, request: Message, reply: type[Reply], *, wait: bool = False) -> Reply:
        timeout = None if wait else REQUEST_TIMEOUT
        return await self.client.call(forward.SERVICE, method, request, reply, timeout=timeout)

    async def publish_volume(self, version: volumes.Version) -> None:
        """Make the guest's copy of a volume this version.

        Only this project's agent can; another answers UNIMPLEMENTED. NOT_FOUND: there is no copy.
        """
        await self.client.call(volumes.SERVICE, "Publish", version, Empty, timeout=REQUEST_TIMEOUT)

    async def copy_file(self, request: wire.CopyFileRequest) -> None:
        """Make a file, a directory or a link in the guest, or write the next piece of a file."""
        await self._call("CopyFile", request, Empty)

    async def remove_file(self, path: str) -> None:
        """Take back what `copy_file` made. Only this project's agent can; another answers UNIMPLEMENTED."""
        request = files.RemoveRequest(path=path)
        await self.client.call(files.SERVICE, "Remove", request, Empty, timeout=REQUEST_TIMEOUT)

    async def rewrite_file(self, path: str, data: bytes) -> None:
        """Give a file that `copy_file` made other content, where it is mounted too. Only this project's agent can."""
        request = files.RewriteRequest(path=path, data=data)
        await self.client.call(files.SERVICE, "Rewrite", request, Empty, timeout=REQUEST_TIMEOUT)

    async def read_termination_message(self, container: str) -> str:
        """Return what a container wrote to the file of its termination message. The agent bounds it, or not."""
        request = wire.GetDiagnosticDataRequest(log_type="termination_log", container_id=container)
        reply = wire.GetDiagnosticDataResponse
        return (await self._call("GetDiagnosticData", request, reply, timeout=_STATS_TIMEOUT)).data

    async def read_metrics(self, *, timeout: float) -> str:
        """Return the agent's and the guest's figures as Prometheus text, which may be any text."""
        return (await self._call("GetMetrics", wire.GetMetricsRequest(), wire.Metrics, timeout=timeout)).metrics

    async def measure_volume(self, path: str) -> csi.VolumeStatsResponse:
        """Return how full the file system at a path of the guest is."""
        return await self._call(
            "GetVolumeStats", wire.VolumeStatsRequest(volume_guest_path=path), csi.VolumeStatsResponse
        )

    async def resize_volume(self, path: str, size: int) -> None:
        """Let the file system at a path of the guest fill its device, which has `size` bytes now."""
        await self._call("ResizeVolume", wire.ResizeVolumeRequest(volume_guest_path=path, size=size), Empty)

    async def read_iptables(self, *, v6: bool) -> bytes:
        """Return the guest's packet filter rules in the form of iptables-save."""
        request = wire.GetIPTablesRequest(is_ipv6=v6)
        return (await self._call("GetIPTables", request, wire.GetIPTablesResponse)).data

    async def write_iptables(self, rules: bytes, *, v6: bool) -> None:
        """Replace the guest's packet filter rules by those in the form of iptables-save."""
        await self._call("SetIPTables", wire.SetIPTablesRequest(is_ipv6=v6, data=rules), wire.SetIPTablesResponse)

    async def set_policy(self, policy: str) -> None:
        """Replace the policy by which the agent refuses calls."""
        await self._call("SetPolicy", wire.SetPolicyRequest(policy=policy), Empty)
