"""The methods of containerd's Task service: what it asks, done with the sandbox, and told as events.

A call that changes something goes on when its client has left or has run out of time, so a client may ask again: the
call under way is joined. A Create or Exec that is repeated before the process was started is such a retry too.
"""

import asyncio
import os
import signal
import time
from typing import Any

from kata.errors import (
    Code,
    ExistsError,
    GuestError,
    KataError,
    NotFoundError,
    StateError,
    UsageError,
)
from kata.protocol.jsonobject import parse_object
from kata.protocol.messages import events
from kata.protocol.messages import task as wire
from kata.protocol.messages.google import Any as Packed
from kata.protocol.messages.google import make_timestamp
from kata.protocol.messages.types import Empty
from kata.sandbox.states import Status
from kata.shim.creation import Creation
from kata.shim.events import TaskEvents
from kata.shim.fifo import FifoTable, Streams
from kata.shim.pod import Pod
from kata.shim.process import Process, TaskEntry
from kata.shim.publisher import Publisher
from kata.shim.rootfs import prepare_rootfs, unmount_rootfs
from kata.shim.standin import StandIn, start_stand_in
from kata.transport.ttrpc import Method, Services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.sandbox.container import Container
    from kata.sandbox.diskroot import OfferedRoot
    from kata.sandbox.sandbox import Sandbox

_VERSION = "v2"
_SETTLE_TIMEOUT = 5.0
_KILLED = 128 + signal.SIGKILL


def list_services(calls: "TaskCalls") -> Services:
    """Return the table that the shim's ttrpc server serves: both versions of the service have the same messages."""
    methods = {
        "State": Method(wire.ProcessRequest, calls.state),
        "Create": Method(wire.CreateTaskRequest, calls.create, lasting=True),
        "Start": Method(wire.ProcessRequest, calls.start, lasting=True),
        "Delete": Method(wire.ProcessRequest, calls.delete, lasting=True),
        "Pids": Method(wire.TaskRequest, calls.pids),
        "Pause": Method(wire.TaskRequest, calls.pause, lasting=True),
        "Resume": Method(wire.TaskRequest, calls.resume, lasting=True),
        "Checkpoint": Method(wire.CheckpointTaskRequest, calls.checkpoint, lasting=True),
        "Kill": Method(wire.KillRequest, calls.kill, lasting=True),
        "Exec": Method(wire.ExecProcessRequest, calls.exec, lasting=True),
        "ResizePty": Method(wire.ResizePtyRequest, calls.resize_pty, lasting=True),
        "CloseIO": Method(wire.CloseIORequest, calls.close_io),
        "Update": Method(wire.UpdateTaskRequest, calls.update, lasting=True),
        "Wait": Method(wire.ProcessRequest, calls.wait),
        "Stats": Method(wire.TaskRequest, calls.stats),
        "Connect": Method(wire.TaskRequest, calls.connect),
        "Shutdown": Method(wire.ShutdownRequest, calls.shutdown),
    }
    return dict.fromkeys(wire.SERVICES, methods)


class TaskCalls:
    """One method a call. The pid that is told of a process is its container's stand-in: its own is in the guest."""

    def __init__(self, pod: Pod, fifos: FifoTable, publisher: Publisher, namespace: int) -> None:
        """`namespace` is the descriptor of the mount namespace in which containerd mounts."""
        self.finished = asyncio.Event()
        self._pod = pod
        self._fifos = fifos
        self._namespace = namespace
        self._events = TaskEvents(publisher)
        self._entries: dict[str, TaskEntry] = {}
        self._creations: dict[str, Creation] = {}

    def is_used(self) -> bool:
        """Say whether there is a container, or one on its way, or a sandbox that is to be there without any."""
        return bool(self._entries or self._creations) or self._pod.is_lasting

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

    def _find_container(self, container: str) -> "Container":
        self._find_entry(container)
        return self._pod.require().find_container(container)

    async def create(self, request: wire.CreateTaskRequest) -> wire.PidResponse:
        """Boot the VM if this is its first container, and make the container up to its first instruction."""
        entry, creation = self._entries.get(request.id), self._creations.get(request.id)
        if entry is not None and (entry.bundle != request.bundle or entry.init.starter or entry.init.exited.done()):
            raise ExistsError(f"container {request.id} exists already")
        if entry is None and creation is None:
            creation = Creation(request.id, request.bundle, self._create(request))
            self._creations[request.id] = creation
            creation.task.add_done_callback(lambda _: self._creations.pop(request.id))
        if creation is not None:
            if creation.bundle != request.bundle:
                raise ExistsError(f"container {request.id} is being created of {creation.bundle}")
            await creation.wait()
        return wire.PidResponse(pid=self._find_entry(request.id).stand_in.pid)

    async def _create(self, request: wire.CreateTaskRequest) -> None:
        rootfs, offered = prepare_rootfs(request.rootfs, request.bundle, self._namespace)
        try:
            entry = await self._create_in_sandbox(request, rootfs, offered)
        except BaseException:
            unmount_rootfs(rootfs)
            raise
        self._entries[request.id] = entry
        self._events.tell_create(request, entry.stand_in.pid)
        guest = self._find_container(request.id).find_process("")
        self._events.follow(entry, entry.init, guest)
        entry.stand_in.follow(guest.abandon)
        guest.exited.add_done_callback(lambda _: entry.stand_in.close())

    async def _create_in_sandbox(
        self, request: wire.CreateTaskRequest, rootfs: str, offered: "OfferedRoot | None"
    ) -> TaskEntry:
        streams = Streams(request.stdin, request.stdout, request.stderr, request.terminal)
        attachment = await self._fifos.open(request.id, streams)
        self._fifos.put(request.id, "", attachment)
        try:
            disks = offered.disks.count_disks() if offered is not None else 0
            origin = None
            if request.checkpoint:
                from kata.sandbox.restoring import Origin  # noqa: PLC0415 - few containers were saved

                origin = Origin(request.checkpoint, offered=offered)
            sandbox = self._pod.open(request.bundle, request.options, self.note_oom, disks=disks, origin=origin)
            await sandbox.create_container(request.id, request.bundle, os.getpid(), offered)
            # Not before: this process is in the pod's network namespace only now, and the stand-in is to be there too.
            stand_in = await _start_stand_in(sandbox, request.id, rootfs)
        except BaseException:
            self._fifos.drop(request.id, "")
            await attachment.close()
            raise
        return TaskEntry(request.bundle, rootfs, Process(request.id, "", streams, attachment), stand_in)

    async def exec(self, request: wire.ExecProcessRequest) -> Empty:
        """Note a process to be executed; Start runs it."""
        entry = self._find_entry(request.id)
        if not request.exec_id:
            raise UsageError(f"the process to be executed in container {request.id} has no id")
        streams = Streams(request.stdin, request.stdout, request.stderr, request.terminal)
        spec = _load_json(request.spec, "process") | {"terminal": request.terminal}
        async with entry.adding:
            known = entry.execs.get(request.exec_id)
            if known is None:
                await self._add_exec(entry, request.exec_id, streams, spec)
            elif known.starter is not None or (known.streams, known.spec) != (streams, spec):
                raise ExistsError(f"container {request.id} has a process {request.exec_id} already")
        return Empty()

    async def _add_exec(self, entry: TaskEntry, exec_id: str, streams: Streams, spec: dict[str, Any]) -> None:
        container = entry.init.container
        if entry.init.exited.done():
            raise StateError(f"container {container} is not running")
        attachment = await self._fifos.open(exec_id, streams)
        entry.execs[exec_id] = Process(container, exec_id, streams, attachment, spec)
        self._events.tell(events.TaskExecAdded(container_id=container, exec_id=exec_id))

    async def start(self, request: wire.ProcessRequest) -> wire.PidResponse:
        """Let a process run. A start that failed has failed for good."""
        process = self._find_process(request.id, request.exec_id)
        if process.started or process.exited.done():
            raise StateError(f"{process.name} was started already")
        if process.starter is None:
            process.starter = asyncio.create_task(self._start(process))
        await asyncio.wait({process.starter})
        process.starter.result()
        return wire.PidResponse(pid=self._find_entry(request.id).stand_in.pid)

    async def _start(self, process: Process) -> None:
        async with process.starting:
            process.attachment.open_stdin()
            if process.spec is None:
                await self._start_container(process.container)
            else:
                await self._start_exec(process, process.spec)
            self._events.tell_start(process, self._find_entry(process.container).stand_in.pid)
            process.started = True

    async def _start_container(self, container: str) -> None:
        await self._pod.require().start_container(container)
        if self._find_container(container).status == Status.PAUSED:
            # Clients pause a container while they save it, and what was restored is to run.
            await self._find_container(container).resume()

    async def _start_exec(self, process: Process, spec: dict[str, Any]) -> None:
        name = (process.container, process.exec_id)
        self._fifos.put(*name, process.attachment)
        try:
            await self._pod.require().exec(*name, spec)
        finally:
            self._fifos.drop(*name)
        guest = self._find_container(process.container).find_process(process.exec_id)
        self._events.follow(self._find_entry(process.container), process, guest)
        if process.size is not None:
            await guest.resize(*process.size)

    async def delete(self, request: wire.ProcessRequest) -> wire.DeleteResponse:
        """Forget a process that has ended or never began. With its last container the VM goes."""
        creation = self._creations.get(request.id)
        if creation is not None and not request.exec_id:
            await creation.end()
            if request.id not in self._entries:
                return _answer_deletion(0, (_KILLED, time.time_ns()))
        entry = self._find_entry(request.id)
        process = self._find_process(request.id, request.exec_id)
        if process.started and not process.exited.done():
            raise StateError(f"{process.name} is running; it must be stopped before it is deleted")
        if request.exec_id:
            await process.attachment.close()
            entry.execs.pop(request.exec_id, None)
            return _answer_deletion(entry.stand_in.pid, process.ended)
        if entry.deletion is None or entry.deletion.done():
            entry.deletion = asyncio.create_task(self._delete_container(entry))
        await asyncio.wait({entry.deletion})
        return entry.deletion.result()

    async def _delete_container(self, entry: TaskEntry) -> wire.DeleteResponse:
        container = entry.init.container
        sandbox = self._pod.require()
        if container in sandbox.containers:  # otherwise the sandbox has ended before
            await sandbox.delete_container(container, force=True)
        if entry.init.watcher is not None:
            await asyncio.wait({entry.init.watcher}, timeout=_SETTLE_TIMEOUT)
        for process in (*entry.execs.values(), entry.init):
            await process.attachment.close()
        entry.stand_in.close()  # else its mounts keep the root busy
        unmount_rootfs(entry.rootfs)
        response = _answer_deletion(entry.stand_in.pid, entry.init.ended)
        self._entries.pop(container, None)
        self._events.tell_delete(container, response)
        return response

    async def state(self, request: wire.ProcessRequest) -> wire.StateResponse:
        entry = self._find_entry(request.id)
        process = self._find_process(request.id, request.exec_id)
        status, exited_at = process.ended or (0, 0)
        return wire.StateResponse(
            id=request.exec_id or request.id,
            bundle=entry.bundle,
            pid=entry.stand_in.pid,
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
        if request.exec_id and not process.started and not process.exited.done():
            raise StateError(f"{process.name} was not started yet")
        try:
            if not process.exited.done():
                sandbox = self._pod.require()
                await sandbox.signal(request.id, request.exec_id, request.signal, everyone=request.all)
                return Empty()
        except (StateError, NotFoundError, GuestError) as error:
            gone = not isinstance(error, GuestError) or error.status == Code.NOT_FOUND
            if not gone and not process.exited.done():
                raise
        if request.signal in (signal.SIGKILL, signal.SIGTERM):
            return Empty()
        raise NotFoundError(f"{process.name} has ended")

    async def wait(self, request: wire.ProcessRequest) -> wire.WaitResponse:
        process = self._find_process(request.id, request.exec_id)
        status, exited_at = await asyncio.shield(process.exited)
        return wire.WaitResponse(exit_status=status, exited_at=make_timestamp(exited_at))

    async def pause(self, request: wire.TaskRequest) -> Empty:
        await self._find_container(request.id).pause()
        self._events.tell(events.TaskPaused(container_id=request.id))
        return Empty()

    async def resume(self, request: wire.TaskRequest) -> Empty:
        await self._find_container(request.id).resume()
        self._events.tell(events.TaskResumed(container_id=request.id))
        return Empty()

    async def checkpoint(self, request: wire.CheckpointTaskRequest) -> Empty:
        """Save the container with its VM; it goes on unless the client wants its end."""
        options = wire.CheckpointOptions()
        if request.options is not None and request.options.type_url.endswith(wire.CHECKPOINT_OPTIONS_TYPE):
            options = wire.CheckpointOptions.decode(request.options.value)
        directory = options.image_path or request.path
        self._find_entry(request.id)
        await self._pod.require().checkpoint(request.id, directory, leave_running=not options.exit)
        self._events.tell(events.TaskCheckpointed(container_id=request.id, checkpoint=directory))
        return Empty()

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
        self._find_entry(request.id)
        await self._pod.require().update_container(request.id, _load_json(request.resources, "resources"))
        return Empty()

    async def pids(self, request: wire.TaskRequest) -> wire.PidsResponse:
        """Tell the one pid that means something on this host: clients look others up in the host's /proc."""
        return wire.PidsResponse(processes=[wire.ProcessInfo(pid=self._find_entry(request.id).stand_in.pid)])

    async def stats(self, request: wire.TaskRequest) -> wire.StatsResponse:
        from kata.shim.stats import pack_stats  # noqa: PLC0415 - not every shim is asked

        self._find_entry(request.id)
        return wire.StatsResponse(stats=pack_stats(await self._pod.require().stat_container(request.id)))

    async def connect(self, request: wire.TaskRequest) -> wire.ConnectResponse:
        entry = self._entries.get(request.id)
        task_pid = entry.stand_in.pid if entry is not None else 0
        return wire.ConnectResponse(shim_pid=os.getpid(), task_pid=task_pid, version=_VERSION)

    async def shutdown(self, _: wire.ShutdownRequest) -> Empty:
        """End the shim, unless other containers of the pod still need it."""
        if not self.is_used():
            self.finished.set()
        return Empty()

    def note_oom(self, container: "Container") -> None:
        """Tell that the container ran out of memory."""
        entry = self._entries.get(container.id)
        if entry is not None:
            self._events.tell_oom(entry.init)


async def _start_stand_in(sandbox: "Sandbox", container: str, rootfs: str) -> StandIn:
    from kata.sandbox.ledger import record_process  # noqa: PLC0415 - what a VM needs is imported for the first one

    readonly = bool((sandbox.find_container(container).bundle.spec.get("root") or {}).get("readonly"))
    try:
        # A root that the guest alone mounts is an empty directory here, which is to stay empty.
        stand_in = start_stand_in(container, rootfs, readonly=readonly or not os.path.ismount(rootfs))
    except KataError:
        await sandbox.delete_container(container, force=True)
        raise
    record_process(sandbox.directory, stand_in.pid)  # it ends with this process, unless somebody has stopped it
    return stand_in


def _answer_deletion(pid: int, ended: tuple[int, int] | None) -> wire.DeleteResponse:
    status, exited_at = ended or (0, 0)
    return wire.DeleteResponse(pid=pid, exit_status=status, exited_at=make_timestamp(exited_at))


def _load_json(packed: Packed | None, what: str) -> dict[str, Any]:
    """Read an OCI object, which containerd sends as JSON."""
    return parse_object(packed.value if packed is not None else b"", f"the {what} object")
