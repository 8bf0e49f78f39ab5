"""Block devices and files of the host as disks of the VM, each of which is plugged in once for all its containers."""

import asyncio
import os
import stat

from kata.config.model import HypervisorConfig
from kata.errors import StateError
from kata.hypervisor.driver import Vm
from kata.hypervisor.spec import BlockDevice, DiskAddress
from kata.storage.claim import claim_disk

_NAME = "disk"
_UNPLUG_TIMEOUT = 30.0  # seconds; an emulated guest under load takes some


class VmDisk:
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
        self._disks: dict[tuple[int, int, bool], VmDisk] = {}
        self._count = 0
        self._plugging = asyncio.Lock()

    async def plug(self, descriptor: int, *, readonly: bool, direct: bool = False, discard: bool = False) -> VmDisk:
        """Plug in the file or device that a descriptor has open; `unplug` once for each time.

        Raise what `claim_disk` and `Vm.plug_block` raise, StateError for one that this VM has in the other way.
        """
        key = (*_identify(descriptor), readonly)
        async with self._plugging:
            known = self._disks.get(key)
            if known is not None:
                if not known.count:
                    raise StateError("the guest has not let go of it")
                known.count += 1
                return known
            if (*key[:2], not readonly) in self._disks:
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
            disk = self._disks[key] = VmDisk(device, address, claim)
            return disk

    def adopt(self, descriptor: int, device: BlockDevice, address: DiskAddress, claim: int) -> VmDisk:
        """Take over a disk that the VM has already, since it was saved with it, and its `claim`."""
        self._count = max(self._count, int(device.id.removeprefix(_NAME)))
        key = (*_identify(descriptor), device.readonly)
        disk = self._disks[key] = VmDisk(device, address, claim)
        return disk

    def close(self) -> None:
        """Let others have the disks, when the VM has ended."""
        for disk in self._disks.values():
            os.close(disk.claim)
        self._disks.clear()

    @property
    def hold_data(self) -> bool:
        """Whether the guest may have written what is not on a disk yet."""
        return any(not disk.readonly for disk in self._disks.values())

    async def resize(self, disk: VmDisk, size: int) -> None:
        """Let the guest see that a disk has `size` bytes now."""
        await self._machine.resize_block(disk.name, size)

    async def unplug(self, disk: VmDisk) -> None:
        """Give a disk up. The last one takes it out. Raise DeadlineError when the guest does not let go; try again."""
        async with self._plugging:
            disk.count = max(disk.count - 1, 0)
            if disk.count:
                return
            await self._machine.unplug(disk.name, timeout=_UNPLUG_TIMEOUT)
            self._disks = {key: value for key, value in self._disks.items() if value is not disk}
            os.close(disk.claim)


def _identify(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return (status.st_rdev, 0) if stat.S_ISBLK(status.st_mode) else (status.st_dev, status.st_ino)
