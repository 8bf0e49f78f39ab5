"""The disks of one container: plugged in for it, and taken out after it."""

import os
import stat
from typing import NamedTuple, Protocol

from kata.errors import KataError, NotFoundError, UsageError
from kata.hypervisor.spec import BlockDevice, DiskAddress
from kata.protocol.messages import agent as wire
from kata.sandbox.hostdisk import HostDisk, find_node
from kata.sandbox.vmdisks import VmDisk, VmDisks

_SECTOR = 512


class OpenFile(Protocol):
    """Opens a path where the engine sees it, or where the container's process does. Raises KataError that names it."""

    def __call__(self, path: str, flags: int, *, local: bool) -> int: ...


class HeldDisk(NamedTuple):
    """A disk that a container has of the file or block device at `path`, which it sees itself where that is `local`.

    `claim` is the descriptor that claims it.
    """

    path: str
    local: bool
    device: BlockDevice
    address: DiskAddress
    claim: int


class ContainerDisks:
    """What is plugged in for one container."""

    def __init__(self, disks: VmDisks, container: str, open_file: OpenFile) -> None:
        self._disks = disks
        self._container = container
        self._open = open_file
        self._plugged: dict[str, VmDisk] = {}
        self._local: set[str] = set()

    def list_held(self) -> list[HeldDisk]:
        """Return the container's disks."""
        return [
            HeldDisk(path, path in self._local, plugged.device, plugged.address, plugged.claim)
            for path, plugged in self._plugged.items()
        ]

    def open_held(self, held: HeldDisk, flags: int) -> int:
        """Return a descriptor of what a disk is of. Raise what opening it raises."""
        return self._open(held.path, flags, local=held.local)

    def adopt(self, held: HeldDisk) -> None:
        """Take over a disk that the VM has already. Raise what opening it raises."""
        descriptor = self.open_held(held, os.O_RDONLY)
        try:
            plugged = self._disks.adopt(descriptor, held.device, held.address, held.claim)
        finally:
            os.close(descriptor)
        self._note(held.path, plugged, local=held.local)

    def _note(self, path: str, plugged: VmDisk, *, local: bool) -> None:
        self._plugged[path] = plugged
        if local:
            self._local.add(path)

    async def plug_file(
        self, path: str, *, readonly: bool, direct: bool = False, discard: bool = False, local: bool = False
    ) -> DiskAddress:
        """Plug in a file or block device as a disk, and return where the guest has it. It is for `unplug` to take out.

        With `discard` what the guest gives back is given back on the host, where the VMM can.
        Raise what opening it raises, UsageError for anything else, StateError without a place for it.
        """
        descriptor = self._open(path, os.O_RDONLY if readonly else os.O_RDWR, local=local)
        try:
            mode = os.fstat(descriptor).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise UsageError(f"container {self._container}: {path} is neither a file nor a block device")
            try:
                plugged = await self._disks.plug(descriptor, readonly=readonly, direct=direct, discard=discard)
            except KataError as error:
                error.message = f"container {self._container}: {path} cannot be a disk of the VM: {error.message}"
                raise
        finally:
            os.close(descriptor)
        if path in self._plugged:
            plugged.count -= 1
        self._note(path, plugged, local=local)
        return plugged.address

    async def plug(self, disks: tuple[HostDisk, ...]) -> list[wire.Device]:
        """Plug block devices in, and return how the agent finds each.

        Raise UsageError for a device that the host has not, and what `plug_file` raises.
        """
        devices = []
        for disk in disks:
            node = find_node(self._container, disk)
            address = await self.plug_file(node, readonly=disk.readonly, local=True)
            devices.append(_describe_disk(address, disk.path))
        return devices

    @property
    def hold_data(self) -> bool:
        """Whether the guest may have written what is not on a disk yet."""
        return any(not plugged.readonly for plugged in self._plugged.values())

    async def grow(self, path: str, least: int) -> None:
        """Let the guest see the size that a file or block device has now, at least `least` bytes.

        Raise NotFoundError for one that was not plugged in, UsageError for one that is smaller.
        """
        plugged = self._plugged.get(path)
        if plugged is None:
            raise NotFoundError(f"container {self._container} has no disk of {path}")
        descriptor = self._open(path, os.O_RDONLY, local=False)
        try:
            size = os.lseek(descriptor, 0, os.SEEK_END)
        finally:
            os.close(descriptor)
        if size < least:
            raise UsageError(f"{path} has {size} bytes, fewer than {least}", hint="make the device bigger first")
        await self._disks.resize(plugged, size - size % _SECTOR)

    async def unplug(self) -> None:
        """Take all of them out, the last first. Raise DeadlineError when the guest does not let go."""
        while self._plugged:
            path, plugged = next(reversed(self._plugged.items()))
            await self._disks.unplug(plugged)
            del self._plugged[path]


def _describe_disk(address: DiskAddress, path: str) -> wire.Device:
    """The agent takes a node of the guest's by another name than an address."""
    if address.driver == "mmioblk":
        return wire.Device(vm_path=address.source, type=address.driver, container_path=path)
    return wire.Device(id=address.source, type=address.driver, container_path=path)
