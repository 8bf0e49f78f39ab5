"""A running acrn-dm: the VM lives as long as the process. It takes no orders but signals."""

from kata.hypervisor.process import VmmProcess


class AcrnVm(VmmProcess):
    """One acrn-dm process."""

    name = "acrn-dm"

    async def list_vcpu_threads(self) -> dict[int, int]:
        """None: the hypervisor runs the vCPUs, each on a processor of its own."""
        return {}
