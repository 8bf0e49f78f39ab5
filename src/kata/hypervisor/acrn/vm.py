"""A running acrn-dm: the VM lives as long as the process. It takes no orders but signals."""

import signal
from contextlib import ExitStack, suppress

from kata.hypervisor.console import Console
from kata.hypervisor.driver import VmExit
from kata.hypervisor.refusal import RefusingVm
from kata.hypervisor.spec import VmSpec, VmState
from kata.transport.child import Child, Ending


class AcrnVm(RefusingVm):
    """One acrn-dm process."""

    name = "acrn-dm"

    def __init__(self, spec: VmSpec, child: Child, console: Console, undo: ExitStack) -> None:
        self.spec = spec
        self.pid = child.pid
        self.start_ticks = child.start_ticks
        self._child = child
        self._console = console
        self._undo = undo

    def read_console(self) -> str:
        return self._console.read_tail()

    async def wait_exit(self) -> VmExit:
        return self._describe_exit(await self._child.wait())

    def _describe_exit(self, ending: Ending) -> VmExit:
        console = self.read_console()
        panicked = "Kernel panic" in console
        reason = "the guest's kernel panicked" if panicked else f"acrn-dm {ending.describe()}"
        return VmExit(ending.returncode, reason, console, panicked)

    async def query_state(self) -> VmState:
        return "running" if self._child.ending is None else "ended"

    async def list_vcpu_threads(self) -> dict[int, int]:
        """None: the hypervisor runs the vCPUs, each on a processor of its own."""
        return {}

    async def stop(self, *, timeout: float = 2.0) -> VmExit:
        with suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGTERM)
        leaving = self._describe_exit(await self._child.stop(grace=timeout))
        self._console.close()
        self._undo.close()
        return leaving
