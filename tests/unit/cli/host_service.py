"""A sandbox service without a VM: a real ttrpc server on the real sockets, whose containers are processes of this host.

It is what `kata-runtime serve` runs under the launcher of these tests. `update` and the sizes of terminals are appended
to the file `seen` beside the bundle's config.json, where a test can read them.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from kata.errors import HostError, NotFoundError, StateError
from kata.protocol.messages import sandbox as wire
from kata.protocol.messages.types import Empty
from kata.protocol.protobuf import Message
from kata.sandbox import store
from kata.sandbox.attach import Attachment, AttachServer
from kata.sys.tree import remove_tree
from kata.transport.ttrpc import Method, ServerConnection


class HostProcess:
    """A process of this host on a stand-in's streams."""

    def __init__(self, attachment: Attachment, document: dict[str, Any], seen: str) -> None:
        self.attachment = attachment
        self.document = document
        self.seen = seen
        self.running: asyncio.subprocess.Process | None = None
        self.ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        attachment.follow(self)

    def note(self, what: Any) -> None:
        with open(self.seen, "a") as file:
            file.write(json.dumps(what) + "\n")

    async def resize(self, rows: int, columns: int) -> None:
        self.note({"resize": [rows, columns]})

    async def signal(self, number: int) -> None:
        if self.running is not None and not self.ended.is_set():
            self.running.send_signal(number)

    async def abandon(self) -> None:
        self.note("abandoned")
        if self.running is None:
            self.end(137)
        else:
            await self.signal(signal.SIGKILL)

    async def start(self) -> None:
        stdio = self.attachment.stdio
        ends = [stdio.stdin, stdio.stdout, stdio.stderr or stdio.stdout]
        streams = [end._descriptor for end in ends if end is not None]
        for stream in streams:
            os.set_blocking(stream, True)
        env = dict(pair.split("=", 1) for pair in self.document.get("env", []))
        self.running = await asyncio.create_subprocess_exec(
            *self.document["args"], stdin=streams[0], stdout=streams[1], stderr=streams[2], env=env
        )
        self._task = asyncio.create_task(self._wait(self.running))

    async def _wait(self, running: asyncio.subprocess.Process) -> None:
        code = await running.wait()
        self.end(code if code >= 0 else 128 - code)

    def end(self, code: int) -> None:
        self.attachment.finish(code)
        self.ended.set()


class HostService:
    """All methods of the service, for one sandbox."""

    def __init__(self, root: str, sandbox: str, attachments: AttachServer) -> None:
        self.root = root
        self.sandbox = sandbox
        self.attachments = attachments
        self.records: dict[str, dict[str, Any]] = {}
        self.processes: dict[str, HostProcess] = {}
        self.paused: set[str] = set()
        self.execs: list[HostProcess] = []
        self.gone = asyncio.Event()

    def find(self, request: Message) -> HostProcess:
        process = self.processes.get(request.container_id)  # type: ignore[attr-defined]  # all requests here have it
        if process is None:
            raise NotFoundError("container does not exist")
        return process

    def find_status(self, container: str) -> str:
        process = self.processes[container]
        if process.ended.is_set():
            return "stopped"
        if container in self.paused:
            return "paused"
        return "created" if process.running is None else "running"

    async def create_container(self, request: wire.CreateContainerRequest) -> Empty:
        attachment = await self.attachments.take(request.container_id, "", timeout=10)
        spec = json.loads(Path(f"{request.bundle}/config.json").read_text())
        if "hang" in spec.get("annotations", {}):
            Path(f"{request.bundle}/seen").touch()
            await asyncio.Event().wait()
        if "refuse" in spec.get("annotations", {}):
            attachment.finish(None)
            self.gone.set()
            raise StateError(spec["annotations"]["refuse"])
        self.processes[request.container_id] = HostProcess(attachment, spec["process"], f"{request.bundle}/seen")
        store.write_container(
            self.root,
            store.ContainerRecord(
                id=request.container_id,
                sandbox=self.sandbox,
                bundle=request.bundle,
                pid=request.pid,
                status="created",
                created="2026-01-01T00:00:00.000000000Z",
            ),
        )
        return Empty()

    async def start_container(self, request: wire.ContainerRequest) -> Empty:
        process = self.find(request)
        status = self.find_status(request.container_id)
        if status != "created":
            raise StateError(f"cannot start a container that is {status}")
        await process.start()
        return Empty()

    async def delete_container(self, request: wire.DeleteContainerRequest) -> Empty:
        process = self.find(request)
        if self.find_status(request.container_id) == "running":
            if not request.force:
                raise StateError(f"container {request.container_id} is running")
            await process.signal(signal.SIGKILL)
            await process.ended.wait()
        if not process.ended.is_set():
            process.end(137)
        del self.processes[request.container_id]
        store.remove_container(self.root, request.container_id)
        if not self.processes:
            self.gone.set()
        return Empty()

    async def signal_process(self, request: wire.SignalProcessRequest) -> Empty:
        process = self.find(request)
        if process.ended.is_set():
            raise StateError("the process is gone")
        if process.running is None:
            process.end(128 + request.signal)
        else:
            await process.signal(request.signal)
        return Empty()

    async def exec_process(self, request: wire.ExecProcessRequest) -> Empty:
        init = self.find(request)
        if self.find_status(request.container_id) != "running":
            raise StateError("the container does not run")
        attachment = await self.attachments.take(request.container_id, request.exec_id, timeout=10)
        process = HostProcess(attachment, json.loads(request.process), init.seen)
        init.note({"exec": json.loads(request.process)})
        try:
            await process.start()
        except FileNotFoundError as error:
            attachment.finish(None)
            raise NotFoundError(f"exec: {error.filename!r}: executable file not found in $PATH") from error
        self.execs.append(process)
        if awaited := process.document.get("awaited"):
            while not os.path.exists(awaited):  # noqa: ASYNC110 - a test makes it
                await asyncio.sleep(0.01)
        return Empty()

    async def pause_container(self, request: wire.ContainerRequest) -> Empty:
        self.find(request)
        if self.find_status(request.container_id) != "running":
            raise StateError("the container does not run")
        self.paused.add(request.container_id)
        return Empty()

    async def resume_container(self, request: wire.ContainerRequest) -> Empty:
        if request.container_id not in self.paused:
            raise StateError("the container is not paused")
        self.paused.discard(request.container_id)
        return Empty()

    async def update_container(self, request: wire.UpdateContainerRequest) -> Empty:
        self.find(request).note({"update": json.loads(request.resources)})
        return Empty()

    async def describe_container(self, request: wire.ContainerRequest) -> wire.DocumentResponse:
        self.find(request)
        record = store.read_container(self.root, request.container_id)
        state = store.describe_state(record, self.find_status(request.container_id))
        return wire.DocumentResponse(document=json.dumps(state))

    async def stat_container(self, request: wire.ContainerRequest) -> wire.DocumentResponse:
        self.find(request)
        return wire.DocumentResponse(document=json.dumps({"pids": {"current": 1}}))

    async def list_processes(self, request: wire.ContainerRequest) -> wire.ListProcessesResponse:
        running = self.find(request).running
        pid = running.pid if running else 0
        return wire.ListProcessesResponse(pids=[pid], lines=["UID PID", f"root {pid}"])


async def run_service(root: str, sandbox: str, service_fd: int, init_fd: int) -> None:
    loop = asyncio.get_running_loop()
    attachments = AttachServer(socket.socket(fileno=init_fd))
    accepting = asyncio.create_task(attachments.run())
    service = HostService(root, sandbox, attachments)
    loop.add_signal_handler(signal.SIGTERM, service.gone.set)
    methods: dict[str, Any] = {
        "CreateContainer": Method(wire.CreateContainerRequest, service.create_container),
        "StartContainer": Method(wire.ContainerRequest, service.start_container),
        "DeleteContainer": Method(wire.DeleteContainerRequest, service.delete_container),
        "SignalProcess": Method(wire.SignalProcessRequest, service.signal_process),
        "ExecProcess": Method(wire.ExecProcessRequest, service.exec_process),
        "PauseContainer": Method(wire.ContainerRequest, service.pause_container),
        "ResumeContainer": Method(wire.ContainerRequest, service.resume_container),
        "UpdateContainer": Method(wire.UpdateContainerRequest, service.update_container),
        "StateContainer": Method(wire.ContainerRequest, service.describe_container),
        "StatsContainer": Method(wire.ContainerRequest, service.stat_container),
        "ListProcesses": Method(wire.ContainerRequest, service.list_processes),
    }
    connections: list[ServerConnection] = []

    def welcome() -> ServerConnection:
        connections.append(ServerConnection({wire.SERVICE: methods}))
        return connections[-1]

    server = await loop.create_server(welcome, sock=socket.socket(fileno=service_fd))
    await service.gone.wait()
    server.close()
    accepting.cancel()
    async with asyncio.timeout(5):
        for connection in connections:
            await connection.closed.wait()


def serve(
    *,
    root: str,
    sandbox: str,
    bundle: str,
    service_fd: int,
    init_fd: int,
    config: str | None,
    network_fd: int,
    creator: int,
    origin: str,
    copy: bool,
) -> int:
    directory = store.find_sandbox_dir(root, sandbox)
    store.lock_sandbox(directory)
    if (Path(bundle) / "refused").exists():
        raise HostError("this host serves nobody")
    try:
        asyncio.run(run_service(root, sandbox, service_fd, init_fd))
    finally:
        remove_tree(directory)
    return 0


def main() -> int:
    """Run kata-runtime with this service in place of the one that starts VMs."""
    if "serve" in sys.argv:
        sys.modules["kata.sandbox.service"] = sys.modules[__name__]
    from kata.cli.main import main as run  # noqa: PLC0415 - what is measured starts here

    return run()
