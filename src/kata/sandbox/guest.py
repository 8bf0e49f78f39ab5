"""The guest as the host sees it: the agent's calls that a sandbox makes, each with its time limit.

What comes back is untrusted: frames are bounded by ttrpc, and no answer names a path or a length that the host obeys.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from kata.errors import Code, DeadlineError, GuestError, StateError, UnsupportedError
from kata.observe.durations import Durations
from kata.protocol.messages import agent as wire
from kata.protocol.messages import (
    checkpoint,
    clock,
    csi,
    files,
    forward,
    health,
    inspect,
    nameserver,
    template,
    types,
    volumes,
)
from kata.protocol.messages.types import Empty
from kata.protocol.protobuf import Buffer, Message
from kata.transport.ttrpc import Client

SERVICE = "grpc.AgentService"
REQUEST_TIMEOUT = 60.0
_STATS_TIMEOUT = 10.0
"""Seconds: whoever collects statistics asks one container after the other, and a guest that hangs holds up them all."""

_CLOCK_TIMEOUT = 5.0
_PREPARE_TIMEOUT = 120.0
_HOLD_TIMEOUT = 20.0
_MAX_STATUS = 255
LOST_STATUS = 255
"""Exit code of a process whose end nobody saw, as runc's callers know it."""

Reply = TypeVar("Reply", bound=Message)


class Guest:
    """The agent at the other end of `client`. Times are in seconds; each call raises GuestError or DeadlineError."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.durations = Durations()
        self.names: dict[str, str] = {}
        """What the guest calls containers that it calls by another name than the host: those of a restored guest."""
        self._calls = 0
        self._idle = asyncio.Event()
        self._released = asyncio.Event()
        self._released.set()
        self.verdict: asyncio.Future[int] | None = None
        """Where somebody finds out why a guest was lost, the exit code that its processes end with."""

    async def _call(
        self, method: str, request: Message, reply: type[Reply], *, timeout: float | None = REQUEST_TIMEOUT
    ) -> Reply:
        if timeout is None:  # a wait for something to happen: its length says nothing about the agent
            return await self._wait(SERVICE, method, request, reply)
        start = time.monotonic()
        try:
            return await self._ask(SERVICE, method, request, reply, timeout=timeout)
        finally:
            self.durations.note(f"grpc.{type(request).__name__}", time.monotonic() - start)

    async def _ask(
        self, service: str, method: str, request: Message, reply: type[Reply], *, timeout: float | None
    ) -> Reply:
        """Call, but not while the guest is held."""
        await self._released.wait()
        self._calls += 1
        try:
            return await self.client.call(service, method, request, reply, timeout=timeout)
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def _wait(self, service: str, method: str, request: Message, reply: type[Reply]) -> Reply:
        """Wait for something to happen, also beyond a time in which the guest is held."""
        while True:
            await self._released.wait()
            try:
                return await self.client.call(service, method, request, reply, timeout=None)
            except GuestError as error:
                if error.status != Code.ABORTED:
                    raise

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Have the guest's containers frozen, and nothing on its way to or from its agent, during the block.

        Calls that are made meanwhile wait for its end. Raise StateError while it is held, DeadlineError where a call
        does not end, UnsupportedError for another agent than this project's.
        """
        if not self._released.is_set():
            raise StateError("the guest is held already")
        self._released.clear()
        try:
            await self._await_idle()
            await self._checkpoint("Hold", Empty())
            try:
                yield
            finally:
                with suppress(GuestError):  # it may be gone, and then others tell of it
                    await self.release()
        finally:
            self._released.set()

    async def _await_idle(self) -> None:
        self._idle.clear()
        try:
            async with asyncio.timeout(_HOLD_TIMEOUT):
                while self._calls:
                    await self._idle.wait()
        except TimeoutError as error:
            raise DeadlineError(f"a call of the guest's agent did not end within {_HOLD_TIMEOUT:g} s") from error

    async def release(self) -> None:
        """Let a guest go on that was saved while it was held."""
        await self._checkpoint("Release", Empty())

    async def renew(self, identity: checkpoint.Identity) -> None:
        """Give a copy of a guest that goes on an identity of its own."""
        await self._checkpoint("Renew", identity)

    async def _checkpoint(self, method: str, request: Message) -> None:
        try:
            await self.client.call(checkpoint.SERVICE, method, request, Empty, timeout=REQUEST_TIMEOUT)
        except GuestError as error:
            if error.status == Code.UNIMPLEMENTED:
                raise UnsupportedError("the guest's agent cannot be saved while containers run") from error
            raise

    def _name(self, container: str) -> str:
        return self.names.get(container, container)

    async def find_lost_status(self) -> int:
        """Return the exit code of a process whose end the guest did not tell."""
        if self.verdict is None or not self.client.lost.is_set():
            return LOST_STATUS
        return await asyncio.shield(self.verdict)

    async def check(self, *, timeout: float) -> None:
        """Wait until the agent serves."""
        await self._ask("grpc.Health", "Check", health.CheckRequest(), health.HealthCheckResponse, timeout=timeout)

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
        await self._call("StartContainer", wire.StartContainerRequest(container_id=self._name(container)), Empty)

    async def remove_container(self, container: str, *, timeout: float) -> None:
        request = wire.RemoveContainerRequest(container_id=self._name(container), timeout=max(1, int(timeout)))
        await self._call("RemoveContainer", request, Empty, timeout=timeout + 1)

    async def exec_process(self, request: wire.ExecProcessRequest) -> None:
        request.container_id = self._name(request.container_id)
        await self._call("ExecProcess", request, Empty)

    async def signal_process(self, container: str, exec_id: str, signal: int, *, timeout: float) -> None:
        """Send a signal. An empty `exec_id` with SIGKILL reaches every process of the container."""
        request = wire.SignalProcessRequest(
            container_id=self._name(container), exec_id=self._name(exec_id), signal=signal
        )
        await self._call("SignalProcess", request, Empty, timeout=timeout)

    async def wait_process(self, container: str, exec_id: str) -> int:
        """Wait for the end of a process and return its exit code, 0 to 255."""
        request = wire.WaitProcessRequest(container_id=self._name(container), exec_id=self._name(exec_id))
        status = (await self._call("WaitProcess", request, wire.WaitProcessResponse, timeout=None)).status
        if not 0 <= status <= _MAX_STATUS:  # exit(2) keeps 8 bits: 256 would look like success
            raise GuestError(f"agent answered the exit code {status} for process {exec_id} of container {container}")
        return status

    async def read_stream(self, container: str, exec_id: str, stream: str, size: int) -> Buffer:
        """Wait for output of `Stdout` or `Stderr`: at most `size` bytes, none at the end of the stream."""
        request = wire.ReadStreamRequest(container_id=self._name(container), exec_id=self._name(exec_id), len=size)
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
        view = memoryview(data)
        while view:
            request = wire.WriteStreamRequest(
                container_id=self._name(container), exec_id=self._name(exec_id), data=view
            )
            written = (await self._call("WriteStdin", request, wire.WriteStreamResponse, timeout=None)).len
            if not 0 < written <= len(view):
                raise GuestError(f"agent answered that it wrote {written} bytes of {len(view)}")
            view = view[written:]  # the rest is for a guest that was held meanwhile

    async def close_stdin(self, container: str, exec_id: str) -> None:
        request = wire.CloseStdinRequest(container_id=self._name(container), exec_id=self._name(exec_id))
        await self._call("CloseStdin", request, Empty)

    async def resize_terminal(self, container: str, exec_id: str, rows: int, columns: int) -> None:
        request = wire.TtyWinResizeRequest(
            container_id=self._name(container), exec_id=self._name(exec_id), row=rows, column=columns
        )
        await self._call("TtyWinResize", request, Empty)

    async def pause_container(self, container: str) -> None:
        await self._call("PauseContainer", wire.PauseContainerRequest(container_id=self._name(container)), Empty)

    async def resume_container(self, container: str) -> None:
        await self._call("ResumeContainer", wire.ResumeContainerRequest(container_id=self._name(container)), Empty)

    async def update_container(self, request: wire.UpdateContainerRequest) -> None:
        request.container_id = self._name(request.container_id)
        await self._call("UpdateContainer", request, Empty)

    async def online(self, vcpus: int) -> None:
        """Have `vcpus` processors in use, and all the memory that was plugged in."""
        await self._call("OnlineCPUMem", wire.OnlineCPUMemRequest(wait=True, nb_cpus=vcpus), Empty)

    async def stat_container(self, container: str, *, timeout: float = _STATS_TIMEOUT) -> wire.StatsContainerResponse:
        request = wire.StatsContainerRequest(container_id=self._name(container))
        return await self._call("StatsContainer", request, wire.StatsContainerResponse, timeout=timeout)

    async def wait_oom(self) -> str:
        """Wait for the next container that ran out of memory, and return its id."""
        answer = await self._call("GetOOMEvent", wire.GetOOMEventRequest(), wire.OOMEvent, timeout=None)
        return next((own for own, guest in self.names.items() if guest == answer.container_id), answer.container_id)

    async def list_processes(self, container: str) -> list[inspect.ProcessInfo]:
        """Return the container's processes. Only this project's agent can tell; another answers UNIMPLEMENTED."""
        request = inspect.ListProcessesRequest(container_id=self._name(container))
        reply = inspect.ListProcessesResponse
        answer = await self._ask(inspect.SERVICE, "ListProcesses", request, reply, timeout=REQUEST_TIMEOUT)
        return answer.processes

    async def list_spans(self) -> inspect.ListSpansResponse:
        """Return what the agent did and when. Only this project's agent can tell."""
        reply = inspect.ListSpansResponse
        return await self._ask(inspect.SERVICE, "ListSpans", Empty(), reply, timeout=_STATS_TIMEOUT)

    async def read_clock(self) -> clock.Reading:
        """Return the guest's time. Only this project's agent can tell it."""
        return await self._clock("Compare", Empty(), clock.Reading)

    async def correct_clock(self, nanoseconds: int) -> None:
        """Let the guest's clock gain, or lose where negative."""
        await self._clock("Correct", clock.Correction(nanoseconds=nanoseconds), Empty)

    async def _clock(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        return await self._ask(clock.SERVICE, method, request, reply, timeout=_CLOCK_TIMEOUT)

    async def set_time(self, nanoseconds: int) -> None:
        """Let the guest's clock jump to a time since the epoch."""
        seconds, rest = divmod(nanoseconds, 1_000_000_000)
        await self._call("SetGuestDateTime", wire.SetGuestDateTimeRequest(Sec=seconds, Usec=rest // 1000), Empty)

    async def prepare_template(self) -> None:
        """Let the guest get ready to be saved for copies. Only this project's agent can; another says UNIMPLEMENTED."""
        await self._ask(template.SERVICE, "Prepare", Empty(), Empty, timeout=_PREPARE_TIMEOUT)

    async def rehearse(self, request: wire.CreateSandboxRequest) -> None:
        """Let the guest make such a sandbox once, and take it down. Only this project's agent can."""
        await self.client.call(template.SERVICE, "Rehearse", request, Empty, timeout=_PREPARE_TIMEOUT)

    async def wake(self, entropy: bytes, slots: list[int], *, timeout: float) -> None:
        """Let a copy of a template become itself, and find what is in these slots of the root bus."""
        request = template.Waking(entropy=entropy, nanoseconds=time.time_ns(), slots=slots)
        await self._ask(template.SERVICE, "Wake", request, Empty, timeout=timeout)

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
        return await self._ask(forward.SERVICE, method, request, reply, timeout=timeout)

    async def serve_names(self, addresses: list[str]) -> None:
        """Have the agent take what is asked of name servers at these addresses, and of no others.

        Only this project's agent can; another answers UNIMPLEMENTED.
        """
        await self._name_servers("Serve", nameserver.Addresses(addresses=addresses))

    async def next_query(self) -> nameserver.Query:
        """Wait for the next of what the guest's programs ask."""
        return await self._wait(nameserver.SERVICE, "NextQuery", Empty(), nameserver.Query)

    async def answer_query(self, query: int, data: bytes) -> None:
        """Answer it; without data, tell that nobody did."""
        await self._name_servers("Answer", nameserver.Answer(id=query, data=data))

    async def _name_servers(self, method: str, request: Message) -> None:
        await self._ask(nameserver.SERVICE, method, request, Empty, timeout=REQUEST_TIMEOUT)

    async def publish_volume(self, version: volumes.Version) -> None:
        """Make the guest's copy of a volume this version.

        Only this project's agent can; another answers UNIMPLEMENTED. NOT_FOUND: there is no copy.
        """
        await self._ask(volumes.SERVICE, "Publish", version, Empty, timeout=REQUEST_TIMEOUT)

    async def copy_file(self, request: wire.CopyFileRequest) -> None:
        """Make a file, a directory or a link in the guest, or write the next piece of a file."""
        await self._call("CopyFile", request, Empty)

    async def remove_file(self, path: str) -> None:
        """Take back what `copy_file` made. Only this project's agent can; another answers UNIMPLEMENTED."""
        request = files.RemoveRequest(path=path)
        await self._ask(files.SERVICE, "Remove", request, Empty, timeout=REQUEST_TIMEOUT)

    async def rewrite_file(self, path: str, data: bytes) -> None:
        """Give a file that `copy_file` made other content, where it is mounted too. Only this project's agent can."""
        request = files.RewriteRequest(path=path, data=data)
        await self._ask(files.SERVICE, "Rewrite", request, Empty, timeout=REQUEST_TIMEOUT)

    async def read_termination_message(self, container: str) -> str:
        """Return what a container wrote to the file of its termination message. The agent bounds it, or not."""
        request = wire.GetDiagnosticDataRequest(log_type="termination_log", container_id=self._name(container))
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
