"""What a driver says to that which it does not declare: drivers' VMs inherit these, and have their own for the rest."""

from kata.errors import UnsupportedError
from kata.hypervisor.spec import BlockDevice, DiskAddress, NetDevice, PciAddress, SharedFs, VfioDevice


class RefusingVm:
    """Refuses every call of `Vm` that a capability stands for. `name` is the VMM's."""

    name = "the VMM"

    async def pause(self) -> None:
        raise UnsupportedError(f"{self.name} cannot pause a VM")

    async def resume(self) -> None:
        raise UnsupportedError(f"{self.name} cannot pause a VM")

    async def save(self, directory: str, *, timeout: float) -> None:  # noqa: ARG002 - refused
        raise UnsupportedError(f"VMs of {self.name} are not saved")

    def find_places(self) -> dict[str, int]:
        return {}

    async def plug_block(self, device: BlockDevice) -> DiskAddress:
        raise UnsupportedError(f"disk {device.id}: {self.name} takes none while the VM runs")

    async def resize_block(self, device_id: str, size: int) -> None:  # noqa: ARG002 - refused
        raise UnsupportedError(f"disk {device_id}: those of VMs of {self.name} keep their size")

    async def plug_net(self, device: NetDevice) -> PciAddress:
        raise UnsupportedError(f"network card {device.id}: {self.name} takes none while the VM runs")

    async def plug_share(self, device: SharedFs) -> PciAddress:
        raise UnsupportedError(f"shared file system {device.tag}: {self.name} takes none while the VM runs")

    async def plug_vfio(self, device: VfioDevice) -> PciAddress:
        raise UnsupportedError(f"device {device.address}: {self.name} takes none while the VM runs")

    def locate(self, device_id: str) -> PciAddress:
        raise UnsupportedError(f"device {device_id}: {self.name} does not tell where its guest has one")

    async def unplug(self, device_id: str, *, timeout: float = 10.0) -> None:  # noqa: ARG002 - refused
        raise UnsupportedError(f"device {device_id}: {self.name} takes nothing out while the VM runs")

    async def resize_vcpus(self, count: int, *, timeout: float = 10.0) -> None:  # noqa: ARG002 - refused
        raise UnsupportedError(f"{count} vCPUs: VMs of {self.name} keep those that they start with")

    async def resize_memory(self, mib: int, *, timeout: float = 10.0) -> None:  # noqa: ARG002 - refused
        raise UnsupportedError(f"{mib} MiB: VMs of {self.name} keep the memory that they start with")
