"""A running Cloud Hypervisor."""

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kata.errors import DeadlineError, ExistsError, GuestError, NotFoundError
from kata.hypervisor.cell import MEMORY, Cell, name_disk
from kata.hypervisor.clh.request import (
    SAVED,
    SAVED_FILES,
    build_vm,
    describe_disk,
    describe_growth,
    describe_net,
    describe_restoring,
    describe_share,
    describe_snapshot,
    describe_vfio,
    find_device,
    name_share,
    read_slot,
)
from kata.hypervisor.launch import Launch
from kata.hypervisor.ratelimit import RateLimits
from kata.hypervisor.rest import CALL_TIMEOUT, RestProcess
from kata.hypervisor.saved import fill_memory
from kata.hypervisor.spec import BlockDevice, DiskAddress, NetDevice, PciAddress, SharedFs, VfioDevice, VmState
from kata.transport.child import Child, Ending

_API = "/api/v1"
_READ = 65536
_MOST_EVENTS = 1 << 16
_PAUSE = 0.05
_STATES: dict[str, VmState] = {"Created": "created", "Running": "running", "Paused": "paused"}
"""Of VmState in its OpenAPI description; with any other the guest has ended."""


class ClhVm(RestProcess):
    """One Cloud Hypervisor process."""

    name = "Cloud Hypervisor"

    def __init__(
        self, launch: Launch, child: Child, cell: Cell, limits: RateLimits, events: socket.socket, *, landlock: bool
    ) -> None:
        """`events` is the other end of its event monitor."""
        super().__init__(launch, child, cell, limits)
        self._landlock = landlock
        self._events = events
        self._said = b""
        self._cause = ""
        """Why it ended, where its end itself does not say it."""
        self._booted = False
        self._plugged = {one.id for one in self.spec.devices if isinstance(one, NetDevice | VfioDevice)}
        """What may be taken out: what has come, and the cards and devices of the start."""
        self._places: dict[str, PciAddress] = {}
        self._loop = asyncio.get_running_loop()
        events.setblocking(False)
        self._loop.add_reader(events, self._read_events)
        self._kept.callback(self._close_events)

    def _close_events(self) -> None:
        self._loop.remove_reader(self._events)
        self._events.close()

    def _read_events(self) -> None:
        """See the guest reset itself: it would boot again, with its agent unknown to everybody. So the VM ends."""
        try:
            data = self._events.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._events)
            return
        self._said = (self._said + data)[-_MOST_EVENTS:]
        if b'"rebooting"' in self._said:
            self._cause = "the guest reset itself"
        elif b'"panic"' in self._said:
            self._cause = "the guest's kernel panicked"
        elif b'"shutdown"' in self._said:
            self._cause = self._cause or "the guest powered itself off"
            return
        else:
            return
        self._child.send_signal(signal.SIGKILL)

    async def _put(
        self, call: str, body: object = None, *, descriptors: tuple[int, ...] = (), timeout: float = CALL_TIMEOUT
    ) -> Any:
        return await self.api.call("PUT", f"{_API}/{call}", body, descriptors=descriptors, timeout=timeout)

    async def _create(self, *, timeout: float) -> None:  # noqa: ARG002 - kept by the caller
        if self.spec.saved:
            await self._restore()
            return
        await self.api.wait_served()
        await self._put("vm.create", build_vm(self.spec, self._limits, landlock=self._landlock))
        for device in self.spec.devices:
            if isinstance(device, NetDevice):
                await self._put("vm.add-net", describe_net(device, self._limits.net), descriptors=device.taps)
            elif isinstance(device, VfioDevice):
                await self._add_vfio(device)
        if not self.spec.paused:
            await self.resume()

    async def _restore(self) -> None:
        fill_memory(self.spec.saved, f"{self.cell.path}/{MEMORY}")  # while it starts
        await self.api.wait_served()
        await self._put("vm.restore", describe_restoring(paused=self.spec.paused))
        self._booted = True

    async def _write_snapshot(self, *, timeout: float) -> dict[str, str]:
        self.cell.make_directory(SAVED)
        await self.pause()
        await self._put("vm.snapshot", describe_snapshot(), timeout=timeout)
        return SAVED_FILES

    async def _ask_state(self) -> VmState:
        info = await self._ask_info()
        return _STATES.get(str(info["state"]), "ended")

    async def pause(self) -> None:
        await self._put("vm.pause")

    async def resume(self) -> None:
        if self._booted:
            await self._put("vm.resume")
        else:
            await self._put("vm.boot")
            self._booted = True
            await self._find_devices()

    async def _find_devices(self) -> None:
        """Learn where the guest has the host's devices of its start."""
        devices = [device for device in self.spec.devices if isinstance(device, VfioDevice)]
        info = await self._ask_info() if devices else None
        for device in devices:
            self._read_address(device.id, find_device(info, device.id))

    async def _ask_to_end(self) -> None:
        self._cause = "Cloud Hypervisor was told to end"
        await self._put("vmm.shutdown")

    def _explain(self, ending: Ending) -> str:
        return self._cause or super()._explain(ending)

    async def plug_block(self, device: BlockDevice) -> DiskAddress:
        name = name_disk(device.id)
        with self._reserve(device.id):
            try:
                self.cell.show_disk(name, device.path, readonly=device.readonly)
                answer = await self._put("vm.add-disk", describe_disk(device, self._limits.disk))
                return DiskAddress("blk", self._read_address(device.id, answer).path)
            except BaseException:
                self.cell.hide_disk(name)
                raise

    async def resize_block(self, device_id: str, size: int) -> None:
        self._require(device_id)
        self.cell.grow_disk(name_disk(device_id))
        await self._put("vm.resize-disk", describe_growth(device_id, size))

    async def plug_net(self, device: NetDevice) -> PciAddress:
        with self._reserve(device.id):
            answer = await self._put("vm.add-net", describe_net(device, self._limits.net), descriptors=device.taps)
            return self._read_address(device.id, answer)

    async def plug_share(self, device: SharedFs) -> PciAddress:
        with self._reserve(device.tag):
            self.cell.show_socket(name_share(device.tag), device.path)
            return self._read_address(device.tag, await self._put("vm.add-fs", describe_share(device)))

    async def plug_vfio(self, device: VfioDevice) -> PciAddress:
        with self._reserve(device.id):
            return self._read_address(device.id, await self._add_vfio(device))

    async def _add_vfio(self, device: VfioDevice) -> Any:
        from kata.hypervisor.pinning import allow_pinning  # noqa: PLC0415 - most VMs have no such device

        allow_pinning(self.pid, self.spec)
        return await self._put("vm.add-device", describe_vfio(device))

    def locate(self, device_id: str) -> PciAddress:
        if device_id not in self._places:
            raise NotFoundError(f"nothing tells where device {device_id} is")
        return self._places[device_id]

    async def resize_vcpus(self, count: int, *, timeout: float = 10.0) -> None:
        await self._resize("vCPUs", {"desired_vcpus": count}, timeout)

    async def resize_memory(self, mib: int, *, timeout: float = 10.0) -> None:
        await self._resize("MiB", {"desired_ram": mib << 20}, timeout)

    async def _resize(self, unit: str, wanted: dict[str, int], timeout: float) -> None:
        """Ask until it can: it takes no other change while the guest has not let go of a vCPU."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        await self._put("vm.resize", wanted)
                    except GuestError:
                        await asyncio.sleep(_PAUSE)
                    else:
                        return
        except TimeoutError as error:
            [amount] = wanted.values()
            raise DeadlineError(f"the guest does not have {amount} {unit} after {timeout:g} s") from error

    @contextmanager
    def _reserve(self, device_id: str) -> Iterator[None]:
        """Have a device plugged in, unless the block fails. Raise ExistsError."""
        if device_id in self._plugged:
            raise ExistsError(f"device {device_id} is plugged in already")
        self._plugged.add(device_id)
        try:
            yield
        except BaseException:
            self._plugged.discard(device_id)
            raise

    def _require(self, device_id: str) -> None:
        if device_id not in self._plugged:
            raise NotFoundError(f"no device {device_id} was plugged in")

    def _read_address(self, device_id: str, answer: Any) -> PciAddress:
        try:
            self._places[device_id] = PciAddress(read_slot(answer))
        except (ValueError, KeyError, TypeError) as error:
            said = json.dumps(answer)[:200]
            raise GuestError(f"Cloud Hypervisor does not say where device {device_id} is: {said}") from error
        return self._places[device_id]

    async def _has(self, device_id: str) -> bool:
        return device_id in ((await self._ask_info()).get("device_tree") or {})

    async def _ask_info(self) -> Any:
        return await self.api.call("GET", f"{_API}/vm.info")

    async def unplug(self, device_id: str, *, timeout: float = 10.0) -> None:
        """Take a device out. Raise NotFoundError, or DeadlineError when the guest does not let go of it."""
        self._require(device_id)
        await self._put("vm.remove-device", {"id": device_id})
        try:
            async with asyncio.timeout(timeout):
                while await self._has(device_id):  # noqa: ASYNC110 - it tells of the guest's answer by no event
                    await asyncio.sleep(_PAUSE)
        except TimeoutError as error:
            raise DeadlineError(f"the guest did not let go of device {device_id} within {timeout:g} s") from error
        self._plugged.discard(device_id)
        self._places.pop(device_id, None)
        self.cell.hide_disk(name_disk(device_id))
