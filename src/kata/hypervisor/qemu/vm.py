"""A running QEMU."""

import asyncio
import socket
from contextlib import ExitStack, suppress

from kata.errors import GuestError, KataError
from kata.hypervisor.console import Console
from kata.hypervisor.driver import VmExit
from kata.hypervisor.qemu.hotplug import Hotplug
from kata.hypervisor.spec import BlockDevice, NetDevice, PciAddress, VfioDevice, VmSpec, VmState
from kata.protocol.qmp import Event
from kata.transport.boundedlog import BoundedLog
from kata.transport.child import Child, Ending
from kata.transport.qmp import QmpSession

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
        self, spec: VmSpec, child: Child, session: QmpSession, console: socket.socket, log: BoundedLog, undo: ExitStack
    ) -> None:
        self.spec = spec
        self.pid = child.pid
        self.start_ticks = child.start_ticks
        self.ended_by_itself = False
        self._child = child
        self._session = session
        self._console = Console(console, log)
        self._undo = undo
        self._shutdown: Event | None = None
        self._released = False
        self._hotplug = Hotplug(session, spec.hotplug_ports)
        session.on_event = self._see_event

    async def open_session(self, *, timeout: float) -> None:
        """Wait until QEMU takes commands, or has ended, whichever is first."""
        opening = asyncio.create_task(self._session.open(timeout=timeout))
        ending = asyncio.create_task(self._child.wait())
        try:
            await asyncio.wait({opening, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done() and opening.exception() is not None:
                # QEMU hangs up a moment before it has ended; its exit status says more than a closed socket.
                await asyncio.wait({ending}, timeout=1.0)
            if ending.done():
                self.ended_by_itself = True
                raise GuestError(f"QEMU {ending.result().describe()}")
            await opening
        finally:
            opening.cancel()
            ending.cancel()
            await asyncio.gather(opening, ending, return_exceptions=True)

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

    async def plug_block(self, device: BlockDevice) -> PciAddress:
        return await self._hotplug.plug_block(device)

    async def plug_net(self, device: NetDevice) -> PciAddress:
        return await self._hotplug.plug_net(device)

    async def plug_vfio(self, device: VfioDevice) -> PciAddress:
        return await self._hotplug.plug_vfio(device)

    async def unplug(self, device_id: str, *, timeout: float = 10.0) -> None:
        await self._hotplug.unplug(device_id, timeout=timeout)
