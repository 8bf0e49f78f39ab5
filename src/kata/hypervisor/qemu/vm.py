"""A running QEMU."""

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from kata.errors import HostError, StateError
from kata.hypervisor.driver import VmExit
from kata.hypervisor.launch import Launch
from kata.hypervisor.process import VmmProcess
from kata.hypervisor.qemu.arguments import list_cards_in_ports
from kata.hypervisor.qemu.hotplug import Hotplug
from kata.hypervisor.qemu.vhostnet import lend_vhost
from kata.hypervisor.saved import STATE, write_saved_memory
from kata.hypervisor.spec import BlockDevice, DiskAddress, NetDevice, PciAddress, SharedFs, VfioDevice, VmState
from kata.protocol.qmp import Event
from kata.transport.child import Child, Ending
from kata.transport.qmp import QmpSession

if TYPE_CHECKING:
    from kata.hypervisor.qemu.resize import Resize
    from kata.hypervisor.qemu.saved import SavedVm

# RunState of QEMU's qapi/run-state.json; all that is not here and not "running" stands still.
_STATES: dict[str, VmState] = {
    "running": "running",
    "prelaunch": "created",
    "inmigrate": "created",
    "shutdown": "ended",
}
_CAUSES = {"guest-shutdown": "the guest powered itself off", "guest-reset": "the guest reset itself"}


class QemuVm(VmmProcess):
    """One QEMU process with its QMP session."""

    name = "QEMU"

    def __init__(
        self,
        launch: Launch,
        child: Child,
        control: socket.socket,
        memory: int | None = None,
        saved: "SavedVm | None" = None,
        *,
        has_vhost: bool = False,
    ) -> None:
        """`control` is our end of the QMP session, and `saved` what the VM goes on from.

        `memory` is the descriptor of the guest's memory, where that is a file of ours. With `has_vhost`, cards that are
        plugged in are the host's kernel's to serve.
        """
        super().__init__(launch, child)
        self._session = QmpSession(control)
        self._session.on_event = self._see_event
        self._memory = memory
        self._saved = saved
        self._has_vhost = has_vhost
        self._shutdown = ""
        """Why it ends, by QEMU's own word (ShutdownCause in its qapi/run-state.json)."""
        self._hotplug = Hotplug(
            self._session, self.spec.hotplug_ports, list_cards_in_ports(self.spec), scsi=self.spec.scsi
        )
        self._resize: Resize | None = None

    async def _create(self, *, timeout: float) -> None:
        if self._saved is not None:
            assert self._memory is not None
            self._saved.fill(self._memory)  # while QEMU starts
        await self._session.open(timeout=timeout)
        if self._saved is not None:
            await self._load(self._saved.state, timeout)
            self._saved.close()

    async def _load(self, state: int, timeout: float) -> None:
        """Let a VM whose memory is there go on from a saved state, read from a descriptor."""
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

    def _see_event(self, event: Event) -> None:
        if event.name == "SHUTDOWN":
            self._shutdown = str(event.data.get("reason", ""))

    async def wait_exit(self) -> VmExit:
        await self._child.wait()
        # The event that says why travels beside the process's end, and may be read later.
        await self._session.wait_closed(timeout=1.0)
        return await super().wait_exit()

    def _has_panicked(self, console: str) -> bool:
        # With panic=-1 a panicking kernel resets the machine, and -no-reboot makes that the end.
        reset = self._shutdown == "guest-reset" and super()._has_panicked(console)
        return reset or self._shutdown == "guest-panic"

    def _explain(self, ending: Ending) -> str:
        if self._shutdown.startswith("host-"):
            return "QEMU was told to end"
        return _CAUSES.get(self._shutdown) or super()._explain(ending)

    async def _ask_state(self) -> VmState:
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

    async def _ask_to_end(self) -> None:
        await self._session.execute("quit")

    async def _hang_up(self) -> None:
        await self._session.close()

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
        from kata.hypervisor.pinning import allow_pinning  # noqa: PLC0415 - most VMs have no such device

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
