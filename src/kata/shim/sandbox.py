"""The methods of `containerd.runtime.sandbox.v1.Sandbox`: a VM that is there before its first container, and after it.

containerd 2 calls them where a runtime's configuration says `sandboxer = "shim"`: no pause container is made then.
UpdateSandbox is answered as unknown, which its description asks of a shim that does not have it.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable

from kata.errors import ExistsError, GuestError, NotFoundError, StateError
from kata.protocol.messages import sandboxapi as wire
from kata.protocol.messages.google import Any, make_timestamp
from kata.protocol.messages.types import Empty
from kata.sandbox.states import SandboxState, Status
from kata.shim.pod import Pod
from kata.transport.ttrpc import Method, Services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.sandbox.container import Container
    from kata.sandbox.sandbox import Sandbox

_STOP_TIMEOUT = 30.0
_PING_TIMEOUT = 5.0
_LOST_STATUS = 255
_READY, _NOT_READY = "SANDBOX_READY", "SANDBOX_NOTREADY"
"""The CRI's words, in which containerd expects the state."""

_SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Go's names for the kernel's."""


def list_sandbox_services(calls: "SandboxCalls") -> Services:
    """Return the table that the shim's ttrpc server serves."""
    return {
        wire.SERVICE: {
            "CreateSandbox": Method(wire.CreateSandboxRequest, calls.create),
            "StartSandbox": Method(wire.SandboxRequest, calls.start),
            "Platform": Method(wire.SandboxRequest, calls.tell_platform),
            "StopSandbox": Method(wire.StopSandboxRequest, calls.stop),
            "WaitSandbox": Method(wire.SandboxRequest, calls.wait),
            "SandboxStatus": Method(wire.SandboxStatusRequest, calls.status),
            "PingSandbox": Method(wire.SandboxRequest, calls.ping),
            "ShutdownSandbox": Method(wire.SandboxRequest, calls.shutdown),
            "SandboxMetrics": Method(wire.SandboxRequest, calls.measure),
        }
    }


class SandboxCalls:
    """One method a call. `finished` becomes set when the shim has to end."""

    def __init__(self, pod: Pod, on_oom: "Callable[[Container], None]", finished: asyncio.Event) -> None:
        self._pod = pod
        self._on_oom = on_oom
        self._finished = finished
        self._sandbox: Sandbox | None = None
        self._spec = ""
        self._created_at = 0
        self._exited_at = 0
        self._watcher: asyncio.Task[None] | None = None

    def _require(self, name: str) -> "Sandbox":
        if self._sandbox is None or name != self._pod.id:
            raise NotFoundError(f"sandbox {name} does not exist")
        return self._sandbox

    async def create(self, request: wire.CreateSandboxRequest) -> Empty:
        """Begin to boot the VM; StartSandbox waits for it."""
        if request.sandbox_id != self._pod.id:
            raise NotFoundError(f"this is the shim of sandbox {self._pod.id}, not of {request.sandbox_id}")
        if self._sandbox is not None:
            raise ExistsError(f"sandbox {request.sandbox_id} exists already")
        from kata.shim.podspec import write_pod_spec  # noqa: PLC0415 - for containerd's Sandbox API only

        self._spec = write_pod_spec(request)
        self._sandbox = self._pod.open(request.bundle_path, None, self._on_oom, lasting=True)
        self._created_at = time.time_ns()
        self._watcher = asyncio.create_task(self._watch(self._sandbox))
        return Empty()

    async def _watch(self, sandbox: "Sandbox") -> None:
        await sandbox.ended.wait()
        self._exited_at = time.time_ns()

    async def start(self, request: wire.SandboxRequest) -> wire.StartSandboxResponse:
        await self._require(request.sandbox_id).wait_started()
        return wire.StartSandboxResponse(
            pid=os.getpid(),
            created_at=make_timestamp(self._created_at),
            spec=Any(type_url=_SPEC_TYPE, value=self._spec.encode()),
        )

    async def tell_platform(self, request: wire.SandboxRequest) -> wire.PlatformResponse:
        self._require(request.sandbox_id)
        machine = os.uname().machine
        return wire.PlatformResponse(
            platform=wire.Platform(os="linux", architecture=_ARCHITECTURES.get(machine, machine))
        )

    async def stop(self, request: wire.StopSandboxRequest) -> Empty:
        """End the VM, and with it every container. Raise TimeoutError after `timeout_secs`; the end goes on then."""
        sandbox = self._require(request.sandbox_id)
        async with asyncio.timeout(request.timeout_secs or _STOP_TIMEOUT):
            await sandbox.stop()
        return Empty()

    async def wait(self, request: wire.SandboxRequest) -> wire.WaitSandboxResponse:
        sandbox = self._require(request.sandbox_id)
        assert self._watcher is not None
        await asyncio.shield(self._watcher)
        status = _LOST_STATUS if sandbox.is_lost else 0
        return wire.WaitSandboxResponse(exit_status=status, exited_at=make_timestamp(self._exited_at))

    async def status(self, request: wire.SandboxStatusRequest) -> wire.SandboxStatusResponse:
        sandbox = self._require(request.sandbox_id)
        ready = sandbox.state == SandboxState.RUNNING and not sandbox.ended.is_set()
        return wire.SandboxStatusResponse(
            sandbox_id=request.sandbox_id,
            pid=os.getpid(),
            state=_READY if ready else _NOT_READY,
            info=self._describe(sandbox, ready=ready) if request.verbose else {},
            created_at=make_timestamp(self._created_at),
            exited_at=make_timestamp(self._exited_at) if self._exited_at else None,
        )

    def _describe(self, sandbox: "Sandbox", *, ready: bool) -> dict[str, str]:
        """Return what `crictl inspectp` shows: under `info` what containerd itself tells of a pause container."""
        known = {"pid": os.getpid(), "processStatus": "running" if ready else "stopped"}
        own = {"state": sandbox.state.value, "containers": sorted(sandbox.containers), "directory": sandbox.directory}
        return {"info": json.dumps(known | {"runtimeSpec": json.loads(self._spec)}), "kata": json.dumps(own)}

    async def ping(self, request: wire.SandboxRequest) -> Empty:
        """Raise StateError where there is no VM, GuestError or DeadlineError where its agent does not answer."""
        await self._require(request.sandbox_id).require_running().guest.check(timeout=_PING_TIMEOUT)
        return Empty()

    async def shutdown(self, request: wire.SandboxRequest) -> Empty:
        """Release everything, and let the shim end. It does so also for a sandbox that was never created."""
        if request.sandbox_id != self._pod.id:
            raise NotFoundError(f"sandbox {request.sandbox_id} does not exist")
        await self._pod.close()
        self._finished.set()
        return Empty()

    async def measure(self, request: wire.SandboxRequest) -> wire.SandboxMetricsResponse:
        """Sum up what the containers use in the guest."""
        sandbox = self._require(request.sandbox_id)
        if sandbox.ended.is_set():
            raise StateError(f"sandbox {request.sandbox_id} has ended")
        sandbox.require_running()
        found = []
        for container in list(sandbox.containers.values()):
            try:
                found.append(await sandbox.stat_container(container.id))
            except GuestError:
                if container.status != Status.STOPPED:
                    raise
        from kata.shim.stats import pack_sum  # noqa: PLC0415 - few engines ask

        metric = wire.Metric(timestamp=make_timestamp(time.time_ns()), id=request.sandbox_id, data=pack_sum(found))
        return wire.SandboxMetricsResponse(metrics=metric)
