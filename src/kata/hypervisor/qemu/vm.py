"""A running QEMU."""

import asyncio
import os
import socket
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from kata.errors import GuestError, HostError, KataError, StateError
from kata.hypervisor.console import Console
from kata.hypervisor.driver import VmExit
from kata.hypervisor.qemu.arguments import list_cards_in_ports
from kata.hypervisor.qemu.hotplug import Hotplug
from kata.hypervisor.qemu.vhostnet import lend_vhost
from kata.hypervisor.saved import STATE, write_saved_memory
from kata.hypervisor.spec import BlockDevice, DiskAddress, NetDevice, PciAddress, SharedFs, VfioDevice, VmSpec, VmState
from kata.protocol.qmp import Event
from kata.transport.boundedlog import BoundedLog
from kata.transport.child import Child, Ending
from kata.transport.qmp import QmpSession

if TYPE_CHECKING:
    from kata.hypervisor.qemu.resize import Resize

# RunState of QEMU's qapi/run-state.json; all that is not here and not "running" stands still.
_STATES: dict[str, VmState] = {
    "running": "running",
    "prelaunch": "created",
    "inmigrate": "created",
    "shutdown": "ended",
}


class QemuVm:
    """One QEMU process, its QMP session, its console, and all that was opened for it."""

    def __init__(
        self,
        spec: VmSpec,
        child: Child,
        session: QmpSession,
        console: socket.socket,
        log: BoundedLog,
        undo: ExitStack,
        memory: int | None = None,
        *,
        has_vhost: bool = False,
    ) -> None:
        """`memory` is the descriptor of the guest's memory, where that is a file of ours.

        With `has_vhost`, cards that are plugged in are the host's kernel's to serve.
        """
        self.spec = spec
        self.pid = child.pid
        self.start_ticks = child.start_ticks
        self.ended_by_itself = False
        self._child = child
        self._session = session
        self._console = Console(console, log)
        self._undo = undo
        self._memory = memory
        self._has_vhost = has_vhost
        self._shutdown: Event | None = None
        self._released = False
        self._hotplug = Hotplug(session, spec.hotplug_ports, list_cards_in_ports(spec), scsi=spec.scsi)
        self._resize: Resize | None = None
        session.on_event = self._see_event

    async def open_session(self, *, timeout: float) -> None:
        """Wait until QEMU takes commands, or has ended, whichever is first."""
        await self._unless_ended(self._session.open(timeout=timeout))

    async def load(self, state: int, *, timeout: float) -> None:
        """Let a VM whose memory is there go on from a saved state, read from a descriptor."""
        await self._unless_ended(self._load(state, timeout))

    async def _load(self, state: int, timeout: float) -> None:
        for plugged in self.spec.plugged:
            if isinstance(plugged.device, NetDevice) and self._has_vhost:
                with lend_vhost(plugged.device) as card:
                    await self._hotplug.restore(plugged._replace(device=card))
            else:
                await self._hotplug.restore(plugged)
        await self._session.execute("getfd", {"fdname": STATE}, descriptors=(state,))
        await self._ignore_memory()
        await self._session.execute("migrate-incoming", {"uri": f"fd:{STATE}"})
        await self._session.wait_event("RESUME", timeout=timeout)

    async def _ignore_memory(self) -> None:
        """Keep what is in a file of ours out of the saved state."""
        wanted = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
        await self._session.execute("migrate-set-capabilities", {"capabilities": wanted})

    async def _unless_ended(self, work: Coroutine[Any, Any, object]) -> None:
        """Do some work with QEMU. Raise GuestError that says how it ended, where that is why it fails."""
        working = asyncio.create_task(work)
        ending = asyncio.create_task(self._child.wait())
        try:
            await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done() and working.exception() is not None:
                # QEMU hangs up a moment before it has ended; its exit status says more than a closed socket.
                await asyncio.wait({ending}, timeout=1.0)
            if ending.done():
                self.ended_by_itself = True
                raise GuestError(f"QEMU {ending.result().describe()}")
            await working
        finally:
            working.cancel()
            ending.cancel()
            await asyncio.gather(working, ending, return_exceptions=True)

    def _see_event(self, event: Event) -> None:
        if event.name == "SHUTDOWN":
            self._shutdown = event

    def read_console(self) -> str:
        return self._console.read_tail()

    async def wait_exit(self) -> VmExit:
        ending = await self._child.wait()
        # The event that says why travels beside the process's end, and may be read later.
        await self._session.wait_closed(timeout=1.0)
        return self._describe_exit(ending)

    def _describe_exit(self, ending: Ending) -> VmExit:
        cause = "" if self._shutdown is None else str(self._shutdown.data.get("reason", ""))
        console = self.read_console()
        # With panic=-1 a panicking kernel resets the machine, and -no-reboot makes that the end.
        panicked = cause == "guest-panic" or (cause == "guest-reset" and "Kernel panic" in console)
        if panicked:
            reason = "the guest's kernel panicked"
        elif cause == "guest-shutdown":
            reason = "the guest powered itself off"
        elif cause == "guest-reset":
            reason = "the guest reset itself"
        elif cause.startswith("host-"):
            reason = "QEMU was told to end"
        else:
            reason = f"QEMU {ending.describe()}"
        return VmExit(ending.returncode, reason, console, panicked)

    async def query_state(self) -> VmState:
        if self._child.ending is not None:
            return "ended"
        status = await self._session.execute("query-status")
        return _STATES.get(str(status["status"]), "paused")

    async def pause(self) -> None:
        await self._session.execute("stop")

    async def resume(self) -> None:
        await self._session.execute("cont")

    async def save(self, directory: str, *, timeout: float) -> None:
        if self._memory is None:
            raise StateError(f"sandbox {self.spec.id} was not started as a VM that can be saved")
        path = f"{directory}/{STATE}"
        try:
            target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"the state of a VM cannot be written to {path}: {error.strerror}") from error
        try:
            await self._session.execute("getfd", {"fdname": STATE}, descriptors=(target,))
        finally:
            os.close(target)
        await self._ignore_memory()
        self._session.forget_events("MIGRATION")
        # Not stopped before: a VM that stood still when it was saved would be restored as one.
        await self._session.execute("migrate", {"uri": f"fd:{STATE}"})
        ended = await self._session.wait_event(
            "MIGRATION", lambda data: data.get("status") in ("completed", "failed", "cancelled"), timeout=timeout
        )
        if ended.data["status"] != "completed":
            raise HostError(f"QEMU could not write the state of sandbox {self.spec.id}: {ended.data['status']}")
        await asyncio.to_thread(write_saved_memory, self._memory, directory)

    def find_places(self) -> dict[str, int]:
        return self._hotplug.find_places()

    async def list_vcpu_threads(self) -> dict[int, int]:
        return {int(cpu["cpu-index"]): int(cpu["thread-id"]) for cpu in await self._session.execute("query-cpus-fast")}

    async def stop(self, *, timeout: float = 2.0) -> VmExit:
        if self._child.ending is None and timeout > 0:
            with suppress(KataError, TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._session.execute("quit", timeout=timeout)
                    await self._child.wait()
        ending = await self._child.stop()
        if not self._released:
            await self._session.wait_closed(timeout=1.0)
        leaving = self._describe_exit(ending)
        await self._release()
        return leaving

    async def _release(self) -> None:
        if self._released:
            return
        self._released = True
        self._console.close()
        await self._session.close()
        self._undo.close()

    async def plug_block(self, device: BlockDevice) -> DiskAddress:
        return await self._hotplug.plug_block(device)

    async def resize_block(self, device_id: str, size: int) -> None:
        await self._hotplug.resize_block(device_id, size)

    async def plug_net(self, device: NetDevice) -> PciAddress:
        if not self._has_vhost:
            return await self._hotplug.plug_net(device)
        with lend_vhost(device) as card:
            return await self._hotplug.plug_net(card)

    async def plug_share(self, device: SharedFs) -> PciAddress:
        return await self._hotplug.plug_share(device)

    async def plug_vfio(self, device: VfioDevice) -> PciAddress:
        from kata.hypervisor.qemu.pinning import allow_pinning  # noqa: PLC0415 - most VMs have no such device

        allow_pinning(self.pid, self.spec)
        return await self._hotplug.plug_vfio(device)

    def locate(self, device_id: str) -> PciAddress:
        return self._hotplug.locate(device_id)

    async def unplug(self, device_id: str, *, timeout: float = 10.0) -> None:
        await self._hotplug.unplug(device_id, timeout=timeout)

    async def resize_vcpus(self, count: int, *, timeout: float = 10.0) -> None:
        await self._find_resize().resize_vcpus(count, timeout=timeout)

    async def resize_memory(self, mib: int, *, timeout: float = 10.0) -> None:
        await self._find_resize().resize_memory(mib, timeout=timeout)

    def _find_resize(self) -> "Resize":
        from kata.hypervisor.qemu.resize import Resize  # noqa: PLC0415 - most VMs keep their size

        self._resize = self._resize or Resize(self._session, self.spec)
        return self._resize
