"""The methods of `containerd.task.v2.Task`: what containerd asks, done with the sandbox, and told as events."""

import asyncio
import json
import os
import signal
from typing import Any

from kata.errors import ExistsError, NotFoundError, StateError, UnsupportedError, UsageError
from kata.protocol.messages import events
from kata.protocol.messages import task as wire
from kata.protocol.messages.google import Any as Packed
from kata.protocol.messages.google import make_timestamp
from kata.protocol.messages.types import Empty
from kata.sandbox.container import Container
from kata.sandbox.states import Status
from kata.shim.fifo import FifoTable
from kata.shim.pod import Pod
from kata.shim.process import Process, Streams, TaskEntry
from kata.shim.publisher import Publisher
from kata.shim.rootfs import mount_rootfs, unmount_rootfs
from kata.shim.stats import pack_stats
from kata.transport.ttrpc import Method, Services

_VERSION = "v2"
_SETTLE_TIMEOUT = 5.0


def list_services(calls: "TaskCalls") -> Services:
    """Return the table that the shim's ttrpc server serves: both versions of the service have the same messages."""
    methods = {
        "State": Method(wire.ProcessRequest, calls.state),
        "Create": Method(wire.CreateTaskRequest, calls.create),
        "Start": Method(wire.ProcessRequest, calls.start),
        "Delete": Method(wire.ProcessRequest, calls.delete),
        "Pids": Method(wire.TaskRequest, calls.pids),
        "Pause": Method(wire.TaskRequest, calls.pause),
        "Resume": Method(wire.TaskRequest, calls.resume),
        "Checkpoint": Method(wire.CheckpointTaskRequest, calls.checkpoint),
        "Kill": Method(wire.KillRequest, calls.kill),
        "Exec": Method(wire.ExecProcessRequest, calls.exec),
        "ResizePty": Method(wire.ResizePtyRequest, calls.resize_pty),
        "CloseIO": Method(wire.CloseIORequest, calls.close_io),
        "Update": Method(wire.UpdateTaskRequest, calls.update),
        "Wait": Method(wire.ProcessRequest, calls.wait),
        "Stats": Method(wire.TaskRequest, calls.stats),
        "Connect": Method(wire.TaskRequest, calls.connect),
        "Shutdown": Method(wire.ShutdownRequest, calls.shutdown),
    }
    return dict.fromkeys(wire.SERVICES, methods)


class TaskCalls:
    """One method a call. The pid that is told is the shim's: the processes have theirs in the guest."""

    def __init__(self, pod: Pod, fifos: FifoTable, publisher: Publisher) -> None:
        self.finished = asyncio.Event()
        self._pod = pod
        self._fifos = fifos
        self._publisher = publisher
        self._entries: dict[str, TaskEntry] = {}
        self._creating: set[str] = set()
        self._pid = os.getpid()

    def is_used(self) -> bool:
        """Say whether there is a container, or one on its way."""
        return bool(self._entries or self._creating)

    def _find_entry(self, container: str) -> TaskEntry:
        entry = self._entries.get(container)
        if entry is None:
            raise NotFoundError(f"container {container} does not exist")
        return entry

    def _find_process(self, container: str, exec_id: str) -> Process:
        entry = self._find_entry(container)
        process = entry.execs.get(exec_id) if exec_id else entry.init
        if process is None:
            raise NotFoundError(f"container {container} has no process {exec_id}")
        return process

    def _find_container(self, container: str) -> Container:
        self._find_entry(container)
        return self._pod.require().find_container(container)

    async def create(self, request: wire.CreateTaskRequest) -> wire.PidResponse:
        """Boot the VM if this is its first container, and make the container up to its first instruction."""
        if request.id in self._entries or request.id in self._creating:
            raise ExistsError(f"container {request.id} exists already")
        if request.checkpoint:
            raise UnsupportedError(f"container {request.id} cannot be restored from {request.checkpoint}")
        streams = Streams(request.stdin, request.stdout, request.stderr, request.terminal)
        self._creating.add(request.id)
        try:
            process = await self._create(request, streams)
        finally:
            self._creating.discard(request.id)
        self._entries[request.id] = TaskEntry(request.bundle, process)
        io = events.TaskIO(stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, terminal=request.terminal)
        self._publisher.publish(
            events.TaskCreate(
                container_id=request.id, bundle=request.bundle, rootfs=request.rootfs, io=io, pid=self._pid
            )
        )
        self._watch(process, self._find_container(request.id))
        return wire.PidResponse(pid=self._pid)

    async def _create(self, request: wire.CreateTaskRequest, streams: Streams) -> Process:
        rootfs = f"{request.bundle}/rootfs"
        mount_rootfs(request.rootfs, rootfs)
        try:
            process = Process(request.id, "", streams)
            self._fifos.put(request.id, "", process.attachment)
            try:
                sandbox = self._pod.open(request.bundle, request.options, self._note_oom)
                await sandbox.create_container(request.id, request.bundle, self._pid)
            except BaseException:
                self._fifos.drop(request.id, "")
                process.attachment.finish(None)
                raise
        except BaseException:
            unmount_rootfs(rootfs)
            raise
        return process

    def _watch(self, process: Process, container: Container) -> None:
        process.guest = container.find_process(process.exec_id)
        process.watcher = asyncio.create_task(self._follow(process))

    async def _follow(self, process: Process) -> None:
        """Tell the end of a process: after its start was told, and a container's after that of its execs."""
        assert process.guest is not None
        status = await asyncio.shield(process.guest.exited)
        async with process.starting:
            pass
        if not process.exec_id:
            execs = self._find_entry(process.container).execs.values()
            pending = {other.watcher for other in execs if other.watcher is not None}
            if pending:
                await asyncio.wait(pending, timeout=_SETTLE_TIMEOUT)
        exited_at = process.guest.exited_at
        self._publisher.publish(
            events.TaskExit(
                container_id=process.container,
                id=process.exec_id or process.container,
                pid=self._pid,
                exit_status=status,
                exited_at=make_timestamp(exited_at),
            )
        )
        process.exited.set_result((status, exited_at))

    async def exec(self, request: wire.ExecProcessRequest) -> Empty:
        """Note a process to be executed; Start runs it."""
        entry = self._find_entry(request.id)
        if not request.exec_id or request.exec_id in entry.execs:
            raise ExistsError(f"container {request.id} has a process {request.exec_id} already")
        if entry.init.exited.done():
            raise StateError(f"container {request.id} is not running")
        spec = _load_json(request.spec, "process")
        streams = Streams(request.stdin, request.stdout, request.stderr, request.terminal)
        spec["terminal"] = request.terminal
        entry.execs[request.exec_id] = Process(request.id, request.exec_id, streams, spec)
        self._publisher.publish(events.TaskExecAdded(container_id=request.id, exec_id=request.exec_id))
        return Empty()

    async def start(self, request: wire.ProcessRequest) -> wire.PidResponse:
        process = self._find_process(request.id, request.exec_id)
        async with process.starting:
            if process.started or process.exited.done():
                raise StateError(f"{process.name} was started already")
            process.attachment.open_stdin()
            if process.spec is None:
                await self._pod.require().start_container(request.id)
                self._publisher.publish(events.TaskStart(container_id=request.id, pid=self._pid))
            else:
                await self._start_exec(process, process.spec)
            process.started = True
        return wire.PidResponse(pid=self._pid)

    async def _start_exec(self, process: Process, spec: dict[str, Any]) -> None:
        name = (process.container, process.exec_id)
        self._fifos.put(*name, process.attachment)
        try:
            await self._pod.require().exec(*name, spec)
        finally:
            self._fifos.drop(*name)
        self._watch(process, self._find_container(process.container))
        if process.size is not None and process.guest is not None:
            await process.guest.resize(*process.size)
        self._publisher.publish(
            events.TaskExecStarted(container_id=process.container, exec_id=process.exec_id, pid=self._pid)
        )

    async def delete(self, request: wire.ProcessRequest) -> wire.DeleteResponse:
        """Forget a process that has ended or never began. With its last container the VM goes."""
        entry = self._find_entry(request.id)
        process = self._find_process(request.id, request.exec_id)
        if process.started and not process.exited.done():
            raise StateError(f"{process.name} is running; it must be stopped before it is deleted")
        if request.exec_id:
            process.attachment.finish(None)
            entry.execs.pop(request.exec_id, None)
        else:
            await self._delete_container(entry)
        status, exited_at = process.ended or (0, 0)
        response = wire.DeleteResponse(pid=self._pid, exit_status=status, exited_at=make_timestamp(exited_at))
        if not request.exec_id:
            self._publisher.publish(
                events.TaskDelete(
                    container_id=request.id,
                    pid=self._pid,
                    exit_status=status,
                    exited_at=response.exited_at,
                    id=request.id,
                )
            )
        return response

    async def _delete_container(self, entry: TaskEntry) -> None:
        container = entry.init.container
        await self._pod.require().delete_container(container, force=True)
        if entry.init.watcher is not None:
            await asyncio.wait({entry.init.watcher}, timeout=_SETTLE_TIMEOUT)
        for process in (*entry.execs.values(), entry.init):
            process.attachment.finish(None)
        unmount_rootfs(f"{entry.bundle}/rootfs")
        self._entries.pop(container, None)

    async def state(self, request: wire.ProcessRequest) -> wire.StateResponse:
        entry = self._find_entry(request.id)
        process = self._find_process(request.id, request.exec_id)
        status, exited_at = process.ended or (0, 0)
        return wire.StateResponse(
            id=request.id,
            bundle=entry.bundle,
            pid=self._pid,
            status=self._find_status(process),
            stdin=process.streams.stdin,
            stdout=process.streams.stdout,
            stderr=process.streams.stderr,
            terminal=process.streams.terminal,
            exit_status=status,
            exited_at=make_timestamp(exited_at),
            exec_id=request.exec_id,
        )

    def _find_status(self, process: Process) -> wire.TaskStatus:
        if process.exited.done():
            return wire.TaskStatus.STOPPED
        if not process.started:
            return wire.TaskStatus.CREATED
        if not process.exec_id and self._find_container(process.container).status == Status.PAUSED:
            return wire.TaskStatus.PAUSED
        return wire.TaskStatus.RUNNING

    async def kill(self, request: wire.KillRequest) -> Empty:
        """Send a signal. What has ended already counts as killed; no other signal reaches it."""
        process = self._find_process(request.id, request.exec_id)
        if process.exited.done():
            if request.signal in (signal.SIGKILL, signal.SIGTERM):
                return Empty()
            raise NotFoundError(f"{process.name} has ended")
        if request.exec_id and not process.started:
            raise StateError(f"{process.name} was not started yet")
        container = self._find_container(request.id)
        await container.signal(request.exec_id, request.signal, everyone=request.all)
        return Empty()

    async def wait(self, request: wire.ProcessRequest) -> wire.WaitResponse:
        process = self._find_process(request.id, request.exec_id)
        status, exited_at = await asyncio.shield(process.exited)
        return wire.WaitResponse(exit_status=status, exited_at=make_timestamp(exited_at))

    async def pause(self, request: wire.TaskRequest) -> Empty:
        await self._find_container(request.id).pause()
        self._publisher.publish(events.TaskPaused(container_id=request.id))
        return Empty()

    async def resume(self, request: wire.TaskRequest) -> Empty:
        await self._find_container(request.id).resume()
        self._publisher.publish(events.TaskResumed(container_id=request.id))
        return Empty()

    async def checkpoint(self, request: wire.CheckpointTaskRequest) -> Empty:
        raise UnsupportedError(f"container {request.id} cannot be checkpointed: its processes are in a VM")

    async def resize_pty(self, request: wire.ResizePtyRequest) -> Empty:
        process = self._find_process(request.id, request.exec_id)
        process.size = (request.height, request.width)
        if process.guest is not None:
            await process.guest.resize(*process.size)
        return Empty()

    async def close_io(self, request: wire.CloseIORequest) -> Empty:
        process = self._find_process(request.id, request.exec_id)
        if request.stdin:
            process.attachment.close_stdin()
        return Empty()

    async def update(self, request: wire.UpdateTaskRequest) -> Empty:
        await self._find_container(request.id).update(_load_json(request.resources, "resources"))
        return Empty()

    async def pids(self, request: wire.TaskRequest) -> wire.PidsResponse:
        """Tell the one pid that means something on this host: clients look others up in the host's /proc."""
        self._find_entry(request.id)
        return wire.PidsResponse(processes=[wire.ProcessInfo(pid=self._pid)])

    async def stats(self, request: wire.TaskRequest) -> wire.StatsResponse:
        self._find_entry(request.id)
        guest = self._pod.require().require_running().guest
        return wire.StatsResponse(stats=pack_stats(await guest.stat_container(request.id)))

    async def connect(self, _: wire.TaskRequest) -> wire.ConnectResponse:
        return wire.ConnectResponse(shim_pid=self._pid, task_pid=self._pid, version=_VERSION)

    async def shutdown(self, _: wire.ShutdownRequest) -> Empty:
        """End the shim, unless other containers of the pod still need it."""
        if not self.is_used():
            self.finished.set()
        return Empty()

    def _note_oom(self, container: Container) -> None:
        self._publisher.publish(events.TaskOOM(container_id=container.id))


def _load_json(packed: Packed | None, what: str) -> dict[str, Any]:
    """Read an OCI object, which containerd sends as JSON."""
    try:
        document = json.loads(packed.value if packed is not None else b"")
    except ValueError as error:
        raise UsageError(f"the {what} object is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(f"the {what} is not a JSON object")
    return document
