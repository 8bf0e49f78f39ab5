"""A running acrn-dm: the VM lives as long as the process. It takes no orders but signals."""

import signal
from contextlib import suppress

from kata.hypervisor.driver import VmExit
from kata.hypervisor.process import VmmProcess
from kata.hypervisor.spec import VmState


class AcrnVm(VmmProcess):
    """One acrn-dm process."""

    name = "acrn-dm"

    async def query_state(self) -> VmState:
        return "ended" if self.has_ended else "running"

    async def list_vcpu_threads(self) -> dict[int, int]:
        """None: the hypervisor runs the vCPUs, each on a processor of its own."""
        return {}

    async def stop(self, *, timeout: float = 2.0) -> VmExit:
        with suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGTERM)
        return await self._end(grace=timeout)
