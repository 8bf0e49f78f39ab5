"""What the management socket answers: upstream's paths, each turned into a call of the sandbox or its guest.

An error is a sentence with a fitting status. Nothing answers 200 that was not done.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from kata.errors import KataError, NotFoundError, UsageError
from kata.observe.log import Log
from kata.observe.timeline import Phase
from kata.protocol.exposition import CONTENT_TYPE, encode_families
from kata.protocol.http import Request, Response
from kata.protocol.messages.csi import VolumeStatsResponse
from kata.sandbox.container import Container
from kata.sandbox.guest import Guest
from kata.sandbox.guestphases import read_guest_phases
from kata.sandbox.metrics import measure_sandbox
from kata.sandbox.overhead import Overhead
from kata.sandbox.sandbox import Sandbox

Call = Callable[[Request], Awaitable[Response]]

_VOLUME_PATH = "path"


class ManagementCalls:
    """Serves one sandbox. `serve` is the handler of an HTTP connection."""

    def __init__(self, sandbox: Sandbox, log: Log) -> None:
        self._sandbox = sandbox
        self._log = log
        self._overhead = Overhead()
        self._table: dict[str, dict[str, Call]] = {
            "/metrics": {"GET": self._measure},
            "/agent-url": {"GET": self._name_agent},
            "/direct-volume/stats": {"GET": self._stat_volume, "POST": self._stat_volume},
            "/direct-volume/resize": {"POST": self._resize_volume},
            "/iptables": {"GET": self._read_rules, "PUT": self._write_rules},
            "/ip6tables": {"GET": self._read_rules, "PUT": self._write_rules},
            "/policy": {"PUT": self._set_policy},
            "/timeline": {"GET": self._tell_timeline},
        }

    async def serve(self, request: Request) -> Response:
        """Answer a request. Raise a KataError for what is refused or fails."""
        methods = self._table.get(request.path)
        if methods is None:
            return Response(404, f"there is nothing at {request.path}; there is: {' '.join(self._table)}\n".encode())
        call = methods.get("GET" if request.method == "HEAD" else request.method)
        if call is None:
            allowed = ", ".join(methods)
            text = f"{request.path} does not know the method {request.method}; it knows {allowed}\n"
            return Response(405, text.encode(), {"Allow": allowed})
        return await call(request)

    @property
    def _guest(self) -> Guest:
        return self._sandbox.require_running().guest

    async def _measure(self, _: Request) -> Response:
        families = await measure_sandbox(self._sandbox, self._overhead, self._log)
        return Response(200, encode_families(families).encode(), {"Content-Type": CONTENT_TYPE})

    async def _name_agent(self, _: Request) -> Response:
        return Response(200, self._sandbox.require_running().agent_url.encode())

    async def _stat_volume(self, request: Request) -> Response:
        path = request.query.get(_VOLUME_PATH, "")
        if not path:
            raise UsageError(f"{request.path} needs the parameter {_VOLUME_PATH}, a volume's path on the host")
        stats = await self._guest.measure_volume(self._find_volume(path)[1])
        return Response(200, json.dumps(describe_volume(stats)).encode(), {"Content-Type": "application/json"})

    async def _resize_volume(self, request: Request) -> Response:
        try:
            document: Any = json.loads(request.body)
            path, size = document["VolumePath"], document["Size"]
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError("the request is not JSON of the form {VolumePath, Size}") from error
        if not isinstance(path, str) or not isinstance(size, int) or not 0 < size < 1 << 64:
            raise UsageError("VolumePath has to be a text, and Size a positive number of bytes")
        container, _ = self._find_volume(path)
        await container.resize_volume(path, size)
        return Response(200)

    def _find_volume(self, path: str) -> tuple[Container, str]:
        """Return a container that mounts a host path, and where the guest has it."""
        for container in self._sandbox.containers.values():
            found = container.find_guest_path(path)
            if found:
                return container, found
        raise NotFoundError(f"no container of sandbox {self._sandbox.id} has a volume {path}")

    async def _read_rules(self, request: Request) -> Response:
        return Response(200, await self._guest.read_iptables(v6=request.path == "/ip6tables"))

    async def _write_rules(self, request: Request) -> Response:
        await self._guest.write_iptables(request.body, v6=request.path == "/ip6tables")
        return Response(200)

    async def _set_policy(self, request: Request) -> Response:
        try:
            policy = request.body.decode()
        except UnicodeDecodeError as error:
            raise UsageError("the policy is not UTF-8") from error
        await self._guest.set_policy(policy)
        return Response(200)

    async def _tell_timeline(self, _: Request) -> Response:
        """Answer the host's phases, and the guest's as long as it tells them."""
        timeline = self._sandbox.timeline
        vm = self._sandbox.vm
        guests: list[Phase] = []
        if vm is not None:
            try:
                guests = await read_guest_phases(vm.guest, timeline.zero)
            except KataError as error:
                self._log.write("warning", "the guest does not tell its part of the timeline", error=str(error))
        return Response(200, timeline.describe(guests).encode(), {"Content-Type": "application/json"})


def describe_volume(stats: VolumeStatsResponse) -> dict[str, Any]:
    """Return the JSON object by which clients of upstream know a volume's statistics. Units: 1 bytes, 2 inodes."""
    usage = [{name: getattr(row, name) for name in ("available", "total", "used", "unit")} for row in stats.usage]
    document: dict[str, Any] = {"usage": usage}
    if stats.volume_condition is not None:
        condition = stats.volume_condition
        document["volume_condition"] = {"abnormal": condition.abnormal, "message": condition.message}
    return document
