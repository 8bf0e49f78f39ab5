"""Block devices and files of the host as disks of the VM: plugged in for a container, and taken out after it."""

import asyncio
import os
import stat
from typing import Any, NamedTuple, Protocol

from kata.config.model import HypervisorConfig
from kata.errors import KataError, NotFoundError, StateError, UsageError
from kata.hypervisor.driver import Vm
from kata.hypervisor.spec import BlockDevice, DiskAddress
from kata.protocol.messages import agent as wire
from kata.storage.claim import claim_disk
from kata.sys.file import read_text

_SECTOR = 512
_NAME = "disk"
_UNPLUG_TIMEOUT = 30.0  # seconds; an emulated guest under load takes some


class OpenFile(Protocol):
    """Opens a path where the engine sees it, or where the container's process does. Raises KataError that names it."""

    def __call__(self, path: str, flags: int, *, local: bool) -> int: ...


class Disk(NamedTuple):
    """A block device of the host by its numbers, and the path at which the container is to have it."""

    path: str
    major: int
    minor: int
    readonly: bool


def find_disks(document: dict[str, Any]) -> tuple[Disk, ...]:
    """Return the block devices that a config.json gives to its container, each by a rule for it alone.

    Those that are only listed are none of them: engines list all of the host's for a privileged container, the host's
    own disks among them.
    """
    linux = document.get("linux") or {}
    rules = {
        (rule.get("major"), rule.get("minor")): str(rule.get("access") or "rwm")
        for rule in (linux.get("resources") or {}).get("devices") or []
        if rule.get("allow") and rule.get("type") == "b"
    }
    return tuple(
        Disk(
            str(device.get("path")),
            device["major"],
            device["minor"],
            "w" not in rules[device["major"], device["minor"]],
        )
        for device in linux.get("devices") or []
        if device.get("type") == "b" and (device.get("major"), device.get("minor")) in rules
    )


class _Plugged:
    """A disk of the VM, the descriptor that claims it for that, and how many have it."""

    def __init__(self, device: BlockDevice, address: DiskAddress, claim: int) -> None:
        self.device = device
        self.address = address
        self.claim = claim
        self.count = 1

    @property
    def name(self) -> str:
        return self.device.id

    @property
    def readonly(self) -> bool:
        return self.device.readonly


class VmDisks:
    """The disks that were plugged into one VM. What several containers of a pod have is plugged in once."""

    def __init__(self, machine: Vm, config: HypervisorConfig) -> None:
        self._machine = machine
        self._aio = config.block_device_aio
        self._direct = config.block_device_cache_set and config.block_device_cache_direct
        self._no_flush = config.block_device_cache_set and config.block_device_cache_noflush
        self._plugged: dict[tuple[int, int, bool], _Plugged] = {}
        self._count = 0
        self._plugging = asyncio.Lock()

    async def plug(self, descriptor: int, *, readonly: bool, direct: bool = False, discard: bool = False) -> _Plugged:
        """Plug in the file or device that a descriptor has open; `unplug` once for each time.

        Raise what `claim_disk` and `Vm.plug_block` raise, StateError for one that this VM has in the other way.
        """
        key = (*_identify(descriptor), readonly)
        async with self._plugging:
            known = self._plugged.get(key)
            if known is not None:
                if not known.count:
                    raise StateError("the guest has not let go of it")
                known.count += 1
                return known
            if (*key[:2], not readonly) in self._plugged:
                way = "to write" if readonly else "read-only"
                raise StateError(f"this VM has it {way} already", hint="give it to all containers in the same way")
            claim = claim_disk(descriptor, readonly=readonly)
            self._count += 1
            device = BlockDevice(
                f"{_NAME}{self._count}",
                f"/proc/self/fd/{descriptor}",
                readonly=readonly,
                direct=direct or self._direct or self._aio == "native",
                no_flush=self._no_flush,
                aio=self._aio,
                discard=discard,
            )
            try:
                address = await self._machine.plug_block(device)
            except BaseException:
                os.close(claim)
                raise
            plugged = self._plugged[key] = _Plugged(device, address, claim)
            return plugged

    def adopt(self, descriptor: int, held: "HeldDisk") -> _Plugged:
        """Take over a disk that the VM has already, since it was saved with it, and its claim."""
        self._count = max(self._count, int(held.device.id.removeprefix(_NAME)))
        key = (*_identify(descriptor), held.device.readonly)
        plugged = self._plugged[key] = _Plugged(held.device, held.address, held.claim)
        return plugged

    def close(self) -> None:
        """Let others have the disks, when the VM has ended."""
        for plugged in self._plugged.values():
            os.close(plugged.claim)
        self._plugged.clear()

    @property
    def hold_data(self) -> bool:
        """Whether the guest may have written what is not on a disk yet."""
        return any(not plugged.readonly for plugged in self._plugged.values())

    async def resize(self, plugged: _Plugged, size: int) -> None:
        """Let the guest see that a disk has `size` bytes now."""
        await self._machine.resize_block(plugged.name, size)

    async def unplug(self, plugged: _Plugged) -> None:
        """Give a disk up. The last one takes it out. Raise DeadlineError when the guest does not let go; try again."""
        async with self._plugging:
            plugged.count = max(plugged.count - 1, 0)
            if plugged.count:
                return
            await self._machine.unplug(plugged.name, timeout=_UNPLUG_TIMEOUT)
            self._plugged = {key: value for key, value in self._plugged.items() if value is not plugged}
            os.close(plugged.claim)


def _identify(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return (status.st_rdev, 0) if stat.S_ISBLK(status.st_mode) else (status.st_dev, status.st_ino)


class HeldDisk(NamedTuple):
    """A disk that a container has of the file or block device at `path`, which it sees itself where that is `local`.

    `claim` is the descriptor that claims it.
    """

    path: str
    local: bool
    device: BlockDevice
    address: DiskAddress
    claim: int


class Disks:
    """What is plugged in for one container."""

    def __init__(self, disks: VmDisks, container: str, open_file: OpenFile) -> None:
        self._disks = disks
        self._container = container
        self._open = open_file
        self._plugged: dict[str, _Plugged] = {}
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
            self._note(held.path, self._disks.adopt(descriptor, held), local=held.local)
        finally:
            os.close(descriptor)

    def _note(self, path: str, plugged: _Plugged, *, local: bool) -> None:
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

    async def plug(self, disks: tuple[Disk, ...]) -> list[wire.Device]:
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


def find_node(container: str, disk: Disk) -> str:
    """Return the host's node of a device: the kernel tells its name below /dev in sysfs (kobject uevent, DEVNAME)."""
    lines = read_text(f"/sys/dev/block/{disk.major}:{disk.minor}/uevent").splitlines()
    name = next((line.removeprefix("DEVNAME=") for line in lines if line.startswith("DEVNAME=")), "")
    if not name:
        raise UsageError(
            f"container {container}: the host has no block device {disk.major}:{disk.minor} for {disk.path}"
        )
    return f"/dev/{name}"
