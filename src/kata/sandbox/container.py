"""A container in a sandbox: its status, its init, its execs, and what the host shares for it."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from kata.errors import (
    Code,
    ExistsError,
    GuestError,
    HostError,
    KataError,
    NotFoundError,
    ProtocolError,
    StateError,
    UnsupportedError,
)
from kata.protocol.messages import agent as wire
from kata.protocol.messages import oci
from kata.protocol.oci.document import load_message
from kata.resources.size import check_memory_limit, find_cpus, find_resources, merge_resources, read_limits
from kata.sandbox import store
from kata.sandbox.attach import Attached
from kata.sandbox.bundle import Bundle
from kata.sandbox.containerdisks import ContainerDisks, HeldDisk
from kata.sandbox.diskroot import plug_root
from kata.sandbox.guest import Guest
from kata.sandbox.guestpaths import GUEST_SHARE
from kata.sandbox.hooks import run_hooks, try_hooks
from kata.sandbox.process import GuestProcess
from kata.sandbox.procview import ProcView
from kata.sandbox.scratch import ScratchVolume, plug_scratch
from kata.sandbox.states import Status, move_container
from kata.sandbox.translation import Shared, Translation
from kata.sandbox.volume import DirectVolume, plug_volume
from kata.storage.share import Share

if TYPE_CHECKING:
    from kata.sandbox.passthrough import HostGroups

Result = TypeVar("Result")

_SIGNAL_TIMEOUT = 10.0
_KILL_TIMEOUT = 5.0
"""Seconds in which a guest takes SIGKILL unless it hangs: some, as on TCG all guests of a host may be starting."""

_REMOVE_TIMEOUT = 10.0


class Container:
    """One container. Its methods raise StateError when the status does not allow them."""

    def __init__(
        self,
        root: str,
        guest: Guest,
        bundle: Bundle,
        record: store.ContainerRecord,
        shared: tuple[Shared, ...],
        home: int | None = None,
        disks: ContainerDisks | None = None,
        volumes: tuple[DirectVolume, ...] = (),
        scratch: tuple[ScratchVolume, ...] = (),
        groups: "HostGroups | None" = None,
    ) -> None:
        """`home` is a descriptor of the host's network namespace, None where this process is in it.

        `disks` plugs in what it has of the host's block devices and files, `groups` its IOMMU groups.
        """
        self.id = record.id
        self.bundle = bundle
        self.record = record
        self.execs: dict[str, GuestProcess] = {}
        self.resources = find_resources(bundle.spec)
        """OCI's `linux.resources` as they are now, at least processors and memory."""
        self.limits = read_limits(self.resources)
        """What the VM has to have room for."""
        self._root = root
        self._guest = guest
        self._shared = shared
        self._disks = disks
        self._groups = groups
        self.volumes = volumes
        """Its direct-assigned volumes."""
        self._scratch = scratch
        self._home = home
        self._init: GuestProcess | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._view: ProcView | None = None
        self._forgotten = False
        self.farewell: Callable[[], Awaitable[None]] | None = None
        """What is done when its init has ended, before anybody is told. Set before `create`."""
        self._is_held = False
        self._is_to_pause = False
        self._changes: set[asyncio.Task[Any]] = set()
        store.write_container(root, record)

    @property
    def cpus(self) -> str:
        """The host's processors that its cpuset names, as a list of cpuset(7). The guest has others."""
        return find_cpus(self.resources)

    @property
    def status(self) -> Status:
        return Status(self.record.status)

    def _move(self, then: Status, **changes: Any) -> None:
        move_container(self.id, self.status, then)
        self.record = self.record._replace(status=then.value, **changes)
        if not self._forgotten:
            store.write_container(self._root, self.record)

    def describe(self) -> dict[str, Any]:
        return store.describe_state(self.record, self.status)

    def _require(self, *allowed: Status) -> None:
        if self.status not in allowed:
            raise StateError(f"container {self.id} is not {' or '.join(allowed)}: it is {self.status}")

    async def _finish(self, change: Coroutine[Any, Any, Result]) -> Result:
        """Carry a change through also when the caller is cancelled: the guest does, so the host has to know."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._see_finished)
        return await asyncio.shield(task)

    def _see_finished(self, task: "asyncio.Task[Any]") -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # for the caller; one that was cancelled has no use for it

    async def create(self, translation: Translation, attachment: Attached) -> None:
        """Make the container in the guest, up to its init waiting for `start`."""
        devices, storages = await self._plug(translation)
        await self._run_early_hooks()
        await self._guest.create_container(
            wire.CreateContainerRequest(
                container_id=self.id,
                exec_id=self.id,
                devices=devices,
                storages=[*storages, *translation.storages],
                OCI=translation.spec,
                sandbox_pidns=translation.sandbox_pidns,
            )
        )
        self._see_created(attachment)

    async def _run_early_hooks(self) -> None:
        for point, network in (("prestart", self._home), ("createRuntime", self._home), ("createContainer", None)):
            await run_hooks(self.bundle.spec, point, self.describe(), network=network)

    def _see_created(self, attachment: Attached) -> None:
        self._init = GuestProcess(self._guest, self.id, self.id, attachment)
        self._init.farewell = self.farewell
        self._init.follow()
        self._show_processes(attachment.take_proc())
        self._move(Status.CREATED)
        self._watcher = asyncio.create_task(self._watch(self._init))

    async def adopt(self, disks: Sequence[HeldDisk], attachment: Attached, *, paused: bool) -> None:
        """Take over the container of a guest that was saved, which is held until `start`; it had these disks."""
        if self._disks is not None:
            for disk in disks:
                self._disks.adopt(disk)
        await self._run_early_hooks()
        self._is_held, self._is_to_pause = True, paused
        self._see_created(attachment)

    async def _plug(self, translation: Translation) -> tuple[list[wire.Device], list[wire.Storage]]:
        """Plug in what the host has for it; return the devices it gets, and what of its root the agent mounts."""
        devices = [] if self._groups is None else await self._groups.plug(translation.groups)
        if self._disks is None:
            return devices, []
        devices += await self._disks.plug(translation.disks)
        storages = await plug_root(translation.root, self._disks, self.id) if translation.root else []
        storages += [await plug_volume(volume, self._disks) for volume in self.volumes]
        return devices, storages + [await plug_scratch(volume, self._disks) for volume in self._scratch]

    def _close_view(self) -> None:
        view, self._view = self._view, None
        if view is not None:
            view.close()

    def _show_processes(self, directory: int | None) -> None:
        if directory is None:
            return
        try:
            self._view = ProcView(directory, lambda: self._guest.list_processes(self.id))
        except HostError:
            os.close(directory)  # a kernel without permission events: the directory stays empty

    async def _watch(self, init: GuestProcess) -> None:
        status = await asyncio.shield(init.exited)
        self._close_view()
        if self.status != Status.STOPPED:
            self._move(Status.STOPPED, exit_status=status)
        for process in self.execs.values():
            process.end(128 + signal.SIGKILL)

    async def start(self) -> list[str]:
        """Let the init run. Return a sentence for each poststart hook that failed, which changes nothing else."""
        return await self._finish(self._start())

    async def _start(self) -> list[str]:
        self._require(Status.CREATED)
        if self._is_held:
            await self._guest.release()
        else:
            await self._guest.start_container(self.id)
        if self.status == Status.CREATED:
            self._move(Status.RUNNING)
        if self._is_to_pause and self.status == Status.RUNNING:
            self._move(Status.PAUSED)
        return await try_hooks(self.bundle.spec, "poststart", self.describe(), network=self._home)

    async def signal(self, exec_id: str, number: int, *, everyone: bool) -> None:
        """Send a signal to the init (`exec_id` empty), to one exec, or to every process of the container."""
        if exec_id:
            await self.find_process(exec_id).signal(number)
            return
        if self.status == Status.STOPPED:
            raise StateError(f"container {self.id} is not running")
        if number == signal.SIGKILL and self.status == Status.PAUSED:
            await self.resume()
        whom = "" if everyone or number == signal.SIGKILL else self.id
        timeout = _KILL_TIMEOUT if number == signal.SIGKILL else _SIGNAL_TIMEOUT
        try:
            await self._guest.signal_process(self.id, whom, number, timeout=timeout)
        except GuestError as error:
            if error.status != Code.NOT_FOUND:
                raise
            raise StateError(f"container {self.id} is not running") from error

    def find_process(self, exec_id: str) -> GuestProcess:
        process = self.execs.get(exec_id) if exec_id else self._init
        if process is None:
            raise NotFoundError(f"container {self.id} has no process {exec_id}")
        return process

    async def exec(self, exec_id: str, process: dict[str, Any], attachment: Attached) -> None:
        """Run one more process: `process` is OCI's process object. The attachment is let go of when that fails."""
        await self._finish(self._own_exec(exec_id, process, attachment))

    async def _own_exec(self, exec_id: str, process: dict[str, Any], attachment: Attached) -> None:
        try:
            await self._exec(exec_id, process, attachment)
        except BaseException:
            attachment.finish(None)
            raise

    async def _exec(self, exec_id: str, process: dict[str, Any], attachment: Attached) -> None:
        self._require(Status.RUNNING, Status.CREATED)
        if exec_id in self.execs or not exec_id or exec_id == self.id:
            raise ExistsError(f"container {self.id} has a process {exec_id or self.id} already")
        request = wire.ExecProcessRequest(
            container_id=self.id, exec_id=exec_id, process=load_message(oci.Process, process, "process")
        )
        await self._guest.exec_process(request)
        running = GuestProcess(self._guest, self.id, exec_id, attachment)
        self.execs[exec_id] = running
        running.exited.add_done_callback(lambda _: self.execs.pop(exec_id, None))
        running.follow()

    async def pause(self) -> None:
        await self._finish(self._pause())

    async def _pause(self) -> None:
        self._require(Status.RUNNING)
        await self._guest.pause_container(self.id)
        self._move(Status.PAUSED)

    async def resume(self) -> None:
        await self._finish(self._resume())

    async def _resume(self) -> None:
        self._require(Status.PAUSED)
        await self._guest.resume_container(self.id)
        self._move(Status.RUNNING)

    async def update(self, resources: dict[str, Any]) -> None:
        self._require(Status.RUNNING, Status.CREATED, Status.PAUSED)
        check_memory_limit(self.id, resources)
        message = load_message(oci.LinuxResources, resources, "resources")
        if message.CPU is not None:
            message.CPU.Cpus = message.CPU.Mems = ""
        await self._guest.update_container(wire.UpdateContainerRequest(container_id=self.id, resources=message))
        self.resources = merge_resources(self.resources, resources)
        self.limits = read_limits(self.resources)

    async def delete(self, *, force: bool) -> None:
        """Take the container out of the guest. Raise StateError for one that runs, unless forced."""
        self.check_deletable(force=force)
        await self._end_init()
        try:
            await self._guest.remove_container(self.id, timeout=_REMOVE_TIMEOUT)
        except ProtocolError:
            return  # the connection is of no further use, so there is no guest to take it out of
        except GuestError as error:
            if error.status not in (Code.NOT_FOUND, Code.UNAVAILABLE):
                raise
        await self._unplug()

    def list_disks(self) -> list[HeldDisk]:
        """Return what was plugged in for it."""
        return [] if self._disks is None else self._disks.list_held()

    def open_disk(self, held: HeldDisk) -> int:
        """Return a descriptor to read a disk by. Raise NotFoundError, HostError."""
        assert self._disks is not None
        return self._disks.open_held(held, os.O_RDONLY)

    @property
    def holds_data(self) -> bool:
        """Whether a disk lacks what the container wrote, until the guest has let go of it."""
        return self._disks is not None and self._disks.hold_data

    def check_deletable(self, *, force: bool) -> None:
        """Raise StateError for a container that runs, unless forced."""
        if self.status in (Status.RUNNING, Status.PAUSED) and not force:
            raise StateError(f"container {self.id} is {self.status}; it must be stopped before it is deleted")

    async def discard(self) -> None:
        """Take a container whose creation failed out of the guest, as far as it is there."""
        with suppress(KataError):
            await self._guest.remove_container(self.id, timeout=_REMOVE_TIMEOUT)
        with suppress(KataError):
            await self._unplug()

    async def _unplug(self) -> None:
        if self._disks is not None:
            await self._disks.unplug()
        if self._groups is not None:
            await self._groups.unplug()

    async def _end_init(self) -> None:
        if self._init is None or self._init.exited.done():
            return
        try:
            await self.signal("", signal.SIGKILL, everyone=True)
            async with asyncio.timeout(_SIGNAL_TIMEOUT):
                await asyncio.shield(self._init.exited)
        except (KataError, TimeoutError):
            self._init.end(128 + signal.SIGKILL)

    def unshare(self, share: Share) -> None:
        """Take the container's files out of the share, those that got there."""
        for shared in reversed(self._shared):
            with suppress(NotFoundError):
                share.unbind(shared.name, self.id)

    def find_guest_path(self, source: str) -> str:
        """Return where the guest has a path of the host that is shared with it; empty when it is not."""
        places = {volume.path: volume.place for volume in self.volumes}
        places |= {volume.path: volume.place for volume in self._scratch}
        if os.path.normpath(source) in places:
            return places[os.path.normpath(source)]
        for shared in self._shared:
            if os.path.normpath(shared.source) == os.path.normpath(source):
                return f"{GUEST_SHARE}/{shared.name}"
        return ""

    async def resize_volume(self, source: str, size: int) -> None:
        """Let a direct-assigned volume fill its device up to `size` bytes.

        Raise NotFoundError, UnsupportedError for another kind of volume, UsageError for a device that is smaller.
        """
        volume = next((one for one in self.volumes if one.path == os.path.normpath(source)), None)
        if volume is None or self._disks is None:
            raise UnsupportedError(f"{source} of container {self.id} is shared: its size is the host's")
        await self._disks.grow(volume.info.device, size)
        await self._guest.resize_volume(volume.place, size)

    async def run_poststop(self) -> list[str]:
        """Run the poststop hooks; return a sentence for each that failed, which changes nothing else."""
        return await try_hooks(self.bundle.spec, "poststop", self.describe(), network=self._home)

    def forget(self, status: int) -> None:
        """End every process with `status` and remove the record. Nothing writes it again."""
        self._forgotten = True
        if self._watcher is not None:
            self._watcher.cancel()
        self._close_view()
        self.lose(status)
        if self.status != Status.STOPPED:
            self._move(Status.STOPPED)
        store.remove_container(self._root, self.record.key)

    def lose(self, status: int) -> None:
        """The VM is gone: end every process with `status`."""
        for process in (self._init, *self.execs.values()):
            if process is not None:
                process.end(status)


def name_moment() -> str:
    """Return the time now as RFC 3339 in UTC."""
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e9):09d}Z"
