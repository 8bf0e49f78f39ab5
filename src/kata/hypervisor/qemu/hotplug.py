"""Devices that come and go while the VM runs: in a PCIe root port each, or disks at the SCSI controller."""

import os
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from kata.errors import ConfigError, ExistsError, HostError, NotFoundError, StateError
from kata.hypervisor.qemu.arguments import (
    FIRST_PORT_SLOT,
    SCSI,
    describe_disk_backend,
    describe_disk_frontend,
    describe_net_frontend,
    describe_share_frontend,
    describe_vfio,
)
from kata.hypervisor.spec import BlockDevice, DiskAddress, NetDevice, PciAddress, Plugged, SharedFs, VfioDevice
from kata.transport.qmp import QmpSession

_SCSI_TARGETS = 255  # of virtio-scsi-pci, one more than its highest number (QEMU, hw/scsi/virtio-scsi.c)


class _Occupant:
    """A device that has a place: its name in QEMU, and the commands that take its backend away, last first."""

    def __init__(self, place: int, free: list[int], name: str) -> None:
        """`free` are the places of its kind, to which its own comes back."""
        self.place = place
        self.free = free
        self.name = name
        self.undo: list[tuple[str, dict[str, Any]]] = []
        self.is_leaving = False


class Hotplug:
    """The root ports and the SCSI targets of one VM, and what is in them.

    The first ports have the `cards` and other devices that were there from the start, by id and QEMU's name; `ports`
    more are free.
    """

    def __init__(self, session: QmpSession, ports: int, cards: Mapping[str, str], *, scsi: bool = False) -> None:
        self._session = session
        self._ports = list(range(len(cards), len(cards) + ports))
        self._targets = list(range(_SCSI_TARGETS)) if scsi else []
        self._scsi = scsi
        self._occupants: dict[str, _Occupant] = {}
        self._count = 0
        self._wanted: int | None = None
        for port, (card, name) in enumerate(cards.items()):
            self._occupants[card] = _Occupant(port, self._ports, name)
            if name.startswith("net"):
                self._occupants[card].undo.append(("netdev_del", {"id": name}))

    def find_places(self) -> dict[str, int]:
        """Return the port or the SCSI target of each device by its id."""
        return {device: occupant.place for device, occupant in self._occupants.items()}

    async def restore(self, plugged: Plugged) -> None:
        """Plug a device into the place that it has in the state that is about to be loaded."""
        self._wanted = plugged.place
        try:
            if isinstance(plugged.device, BlockDevice):
                await self.plug_block(plugged.device)
            else:
                await self.plug_net(plugged.device)
        finally:
            self._wanted = None

    @asynccontextmanager
    async def _occupy(self, device_id: str, *, scsi: bool = False) -> AsyncIterator[_Occupant]:
        """Give a device a place; take all that it got back where the block fails. Raise ExistsError, StateError."""
        if device_id in self._occupants:
            raise ExistsError(f"device {device_id} is plugged in already")
        free = self._targets if scsi else self._ports
        if not free:
            hint = None if scsi else 'raise pcie_root_port in [hypervisor.qemu]; machine_type = "microvm" has none'
            place = "SCSI target" if scsi else "hot-plug port"
            raise StateError(f"device {device_id} finds no free {place} in its VM", hint=hint)
        # Names are never used twice: DEVICE_DELETED of an earlier device must not be taken for this one's.
        self._count += 1
        number = free[0] if self._wanted is None else self._wanted
        if number not in free:
            raise StateError(f"device {device_id} cannot be where it was: place {number} is not free")
        free.remove(number)
        occupant = _Occupant(number, free, f"hot{self._count}")
        self._occupants[device_id] = occupant
        try:
            yield occupant
        except BaseException:
            await self._roll_back(device_id)
            raise

    def _find(self, device_id: str) -> _Occupant:
        occupant = self._occupants.get(device_id)
        if occupant is None:
            raise NotFoundError(f"no device {device_id} was plugged in")
        return occupant

    async def _roll_back(self, device_id: str) -> None:
        occupant = self._occupants.pop(device_id)
        occupant.free.append(occupant.place)
        for command, arguments in reversed(occupant.undo):
            await self._session.execute(command, arguments)

    async def _add(self, occupant: _Occupant, driver: str, properties: dict[str, object]) -> PciAddress:
        arguments = {"driver": driver, **properties, "id": f"dev-{occupant.name}", "bus": f"rp{occupant.place}"}
        await self._session.execute("device_add", arguments)
        return _locate(occupant)

    def locate(self, device_id: str) -> PciAddress:
        """Where the guest finds what is in a port. Raise NotFoundError."""
        return _locate(self._find(device_id))

    async def plug_block(self, device: BlockDevice) -> DiskAddress:
        """Pass the disk's descriptor in, make a block node of it, and a disk on that."""
        async with self._occupy(device.id, scsi=self._scsi) as occupant:
            number, driver = await self._pass_disk(occupant, device)
            node = {"driver": driver, "node-name": occupant.name, **describe_disk_backend(number, device)}
            await self._session.execute("blockdev-add", node)
            occupant.undo.append(("blockdev-del", {"node-name": occupant.name}))
            front = describe_disk_frontend(occupant.name, device)
            if self._scsi:
                return await self._add_scsi(occupant, front)
            return DiskAddress("blk", (await self._add(occupant, "virtio-blk-pci", front)).path)

    async def _add_scsi(self, occupant: _Occupant, front: dict[str, object]) -> DiskAddress:
        disk = {"driver": "scsi-hd", "bus": f"{SCSI}.0", "scsi-id": occupant.place, "lun": 0}
        properties = {key: front[key] for key in ("id", "drive", "serial")}
        await self._session.execute("device_add", {**disk, **properties})
        return DiskAddress("scsi", f"{occupant.place}:0")

    async def _pass_disk(self, occupant: _Occupant, device: BlockDevice) -> tuple[int, str]:
        """Return the number of the descriptor's set, and the driver that QEMU has for such files."""
        try:
            flags = os.O_RDONLY if device.readonly else os.O_RDWR
            descriptor = os.open(device.path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ConfigError(f"disk {device.id} at {device.path} cannot be opened: {error.strerror}") from error
        try:
            driver = "host_device" if stat.S_ISBLK(os.fstat(descriptor).st_mode) else "file"
            added = await self._session.execute("add-fd", descriptors=(descriptor,))
        finally:
            os.close(descriptor)
        number = int(added["fdset-id"])
        occupant.undo.append(("remove-fd", {"fdset-id": number}))
        return number, driver

    async def resize_block(self, device_id: str, size: int) -> None:
        """Have the guest see a disk's new size: the file's or device's own, as QEMU would give that to a file."""
        occupant = self._find(device_id)
        await self._session.execute("block_resize", {"node-name": occupant.name, "size": size})

    async def plug_net(self, device: NetDevice) -> PciAddress:
        """Pass the queues' descriptors in, make a netdev of them, and a virtio card on that."""
        async with self._occupy(device.id) as occupant:
            name = occupant.name
            taps = [f"{name}-tap{index}" for index in range(len(device.taps))]
            vhosts = [f"{name}-vhost{index}" for index in range(len(device.vhost))]
            for key, descriptor in zip([*taps, *vhosts], [*device.taps, *device.vhost], strict=True):
                await self._session.execute("getfd", {"fdname": key}, descriptors=(descriptor,))
                occupant.undo.append(("closefd", {"fdname": key}))
            backend: dict[str, Any] = {"type": "tap", "id": name, "fds": ":".join(taps)}
            if vhosts:
                backend |= {"vhost": True, "vhostfds": ":".join(vhosts)}
            await self._session.execute("netdev_add", backend)
            # The netdev has taken them; a name that stays known would be closed under it.
            occupant.undo = [("netdev_del", {"id": name})]
            return await self._add(occupant, "virtio-net-pci", describe_net_frontend(name, device))

    async def plug_share(self, device: SharedFs) -> PciAddress:
        """Pass the daemon's socket in, make a character device of it, and a file system on that."""
        async with self._occupy(device.tag) as occupant:
            name = occupant.name
            await self._session.execute("getfd", {"fdname": name}, descriptors=(device.socket,))
            address = {"type": "fd", "data": {"str": name}}
            backend = {"type": "socket", "data": {"addr": address, "server": False}}
            await self._session.execute("chardev-add", {"id": name, "backend": backend})
            occupant.undo.append(("chardev-remove", {"id": name}))
            return await self._add(occupant, "vhost-user-fs-pci", describe_share_frontend(name, device))

    async def plug_vfio(self, device: VfioDevice) -> PciAddress:
        """Give the VM a host's PCI device. QEMU's user must be allowed to open its VFIO group."""
        async with self._occupy(device.id) as occupant:
            return await self._add(occupant, "vfio-pci", describe_vfio(device))

    async def unplug(self, device_id: str, *, timeout: float) -> None:
        """Ask the guest to let go, wait for it, then take the backend away.

        Raise NotFoundError, or DeadlineError when the guest does not let go; the device is still there then, and this
        may be called again.
        """
        occupant = self._find(device_id)
        name = f"dev-{occupant.name}"
        try:
            await self._session.execute("device_del", {"id": name})
        except HostError:
            if not occupant.is_leaving:
                raise
            # The guest is about to let go since an earlier call, or has done so after it.
        occupant.is_leaving = True
        await self._session.wait_event("DEVICE_DELETED", lambda data: data.get("device") == name, timeout=timeout)
        await self._roll_back(device_id)


def _locate(occupant: _Occupant) -> PciAddress:
    return PciAddress(f"{FIRST_PORT_SLOT + occupant.place:02x}/00")
