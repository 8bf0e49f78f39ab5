"""A running Firecracker."""

import asyncio
import signal
from contextlib import suppress

from kata.errors import ExistsError, NotFoundError, StateError
from kata.hypervisor.cell import Cell, name_disk
from kata.hypervisor.firecracker.request import (
    EMPTY,
    PAUSE,
    RESUME,
    SAVE,
    START,
    STATE,
    Call,
    Place,
    build_calls,
    describe_exchange,
    describe_restoring,
    list_places,
)
from kata.hypervisor.launch import Launch
from kata.hypervisor.ratelimit import RateLimits
from kata.hypervisor.rest import CALL_TIMEOUT, RestProcess
from kata.hypervisor.spec import BlockDevice, DiskAddress, VmState
from kata.sys.process import is_stopped
from kata.transport.child import Child, Ending

_MOMENT = 0.005
_STATES: dict[str, VmState] = {"Not started": "created", "Running": "running", "Paused": "paused"}


class FirecrackerVm(RestProcess):
    """One Firecracker process."""

    name = "Firecracker"
    vcpu_threads = "fc_vcpu"

    def __init__(self, launch: Launch, child: Child, cell: Cell, limits: RateLimits) -> None:
        super().__init__(launch, child, cell, limits)
        self._started = False
        self._stopped = False
        self._free = list_places(self.spec)
        self._plugged: dict[str, Place] = {}
        self._plugging = asyncio.Lock()

    async def _call(self, call: Call, *, timeout: float = CALL_TIMEOUT) -> None:
        if self._stopped:
            raise StateError(f"the VM of sandbox {self.spec.id} is paused")
        await self.api.call(call.method, call.target, call.body, timeout=timeout)

    async def _create(self, *, timeout: float) -> None:  # noqa: ARG002 - kept by the caller
        await self.api.wait_served()
        if self.spec.saved:
            await self._call(describe_restoring(self.spec))
            self._started = True
            return
        for call in build_calls(self.spec, self._limits):
            await self._call(call)
        if not self.spec.paused:
            await self.resume()

    async def _ask_state(self) -> VmState:
        if self._stopped:
            return "paused"
        return _STATES.get(str((await self.api.call("GET", "/"))["state"]), "ended")

    async def pause(self) -> None:
        """Stop the whole process.

        Firecracker 1.16 can pause a VM, but one that it resumed hears nothing over vsock any more (its issue 6100).
        """
        self._child.send_signal(signal.SIGSTOP)
        self._stopped = True
        with suppress(OSError):  # it has ended
            while not is_stopped(self.pid):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(_MOMENT)

    async def resume(self) -> None:
        """Let a VM go on that was paused, or start one that was described only."""
        if self._stopped:
            self._child.send_signal(signal.SIGCONT)
            self._stopped = False
        elif self._started:
            await self._call(RESUME)
        else:
            await self._call(START)
            self._started = True

    async def _write_snapshot(self, *, timeout: float) -> dict[str, str]:
        await self._call(PAUSE)
        await self._call(SAVE, timeout=timeout)
        return {STATE: STATE}

    def _explain(self, ending: Ending) -> str:
        # It has no power button and no ACPI: a guest ends it by resetting itself, whatever it meant.
        return super()._explain(ending) if ending.returncode else "the guest reset itself"

    async def _ask_to_end(self) -> None:
        """End it: it knows no polite way, and none that it hears while it is stopped."""
        self._child.send_signal(signal.SIGKILL)

    async def plug_block(self, device: BlockDevice) -> DiskAddress:
        if device.id in self._plugged:
            raise ExistsError(f"device {device.id} is plugged in already")
        async with self._plugging:
            place = next((place for place in self._free if place.readonly == device.readonly), None)
            if place is None:
                kind = "read-only" if device.readonly else "writable"
                raise StateError(f"device {device.id} finds no free {kind} disk in its VM")
            name = name_disk(device.id)
            self.cell.show_disk(name, device.path, readonly=device.readonly)
            try:
                await self._call(describe_exchange(place, name))
            except BaseException:
                self.cell.hide_disk(name)
                raise
            self._free.remove(place)
            self._plugged[device.id] = place
        return DiskAddress("mmioblk", place.node)

    async def resize_block(self, device_id: str, size: int) -> None:  # noqa: ARG002 - it sees that by itself
        """Have Firecracker open a disk again and see its size. It handles requests one by one, so none is under way."""
        name = name_disk(device_id)
        place = self._find(device_id)
        self.cell.grow_disk(name)
        await self._call(describe_exchange(place, name))

    def _find(self, device_id: str) -> Place:
        place = self._plugged.get(device_id)
        if place is None:
            raise NotFoundError(f"no device {device_id} was plugged in")
        return place

    async def unplug(self, device_id: str, *, timeout: float = 10.0) -> None:
        """Take what is behind a disk away; the guest has unmounted it, and is not asked. Raise NotFoundError."""
        place = self._find(device_id)
        async with asyncio.timeout(timeout):
            await self._call(describe_exchange(place, EMPTY))
        del self._plugged[device_id]
        self._free.append(place)
        self.cell.hide_disk(name_disk(device_id))
