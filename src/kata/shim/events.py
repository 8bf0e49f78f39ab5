"""What happens to a container, told to containerd in order: nothing before its cause, and a container's end last."""

import asyncio

from kata.protocol.messages import events
from kata.protocol.messages import task as wire
from kata.protocol.messages.google import make_timestamp
from kata.protocol.protobuf import Message
from kata.shim.process import Process, TaskEntry
from kata.shim.publisher import Publisher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.sandbox.process import GuestProcess

_SETTLE_TIMEOUT = 5.0


class TaskEvents:
    """Tells what the calls of one container do, and what its processes do by themselves."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._telling: set[asyncio.Task[None]] = set()

    def tell(self, event: Message) -> None:
        """Tell what a call has just done."""
        self._publisher.publish(event)

    def tell_create(self, request: wire.CreateTaskRequest, pid: int) -> None:
        io = events.TaskIO(stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, terminal=request.terminal)
        self.tell(
            events.TaskCreate(container_id=request.id, bundle=request.bundle, rootfs=request.rootfs, io=io, pid=pid)
        )

    def tell_start(self, process: Process, pid: int) -> None:
        container, exec_id = process.container, process.exec_id
        if exec_id:
            self.tell(events.TaskExecStarted(container_id=container, exec_id=exec_id, pid=pid))
        else:
            self.tell(events.TaskStart(container_id=container, pid=pid))

    def tell_delete(self, container: str, response: wire.DeleteResponse) -> None:
        self.tell(
            events.TaskDelete(
                container_id=container,
                pid=response.pid,
                exit_status=response.exit_status,
                exited_at=response.exited_at,
                id=container,
            )
        )

    def tell_oom(self, process: Process) -> None:
        """Tell that the container of this first process ran out of memory, after its start was told."""

        async def tell() -> None:
            async with process.starting:
                self.tell(events.TaskOOM(container_id=process.container))

        task = asyncio.create_task(tell())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def follow(self, entry: TaskEntry, process: Process, guest: "GuestProcess") -> None:
        """Tell the end of a process that the guest has, when it comes. Call it once."""
        process.guest = guest
        process.watcher = asyncio.create_task(self._follow(entry, process, guest))

    async def _follow(self, entry: TaskEntry, process: Process, guest: "GuestProcess") -> None:
        status = await asyncio.shield(guest.exited)
        async with process.starting:  # whoever waits for it longer is told first: a lock serves in order
            pass
        if not process.exec_id:
            pending = {other.watcher for other in entry.execs.values() if other.watcher is not None}
            if pending:
                await asyncio.wait(pending, timeout=_SETTLE_TIMEOUT)
        self.tell(
            events.TaskExit(
                container_id=process.container,
                id=process.exec_id or process.container,
                pid=entry.stand_in.pid,
                exit_status=status,
                exited_at=make_timestamp(guest.exited_at),
            )
        )
        process.exited.set_result((status, guest.exited_at))
