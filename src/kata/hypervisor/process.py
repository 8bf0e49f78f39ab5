"""A VM that is one process of its VMM: how it ended, what its console said, and what is released with it."""

from contextlib import ExitStack

from kata.hypervisor.console import Console
from kata.hypervisor.driver import VmExit
from kata.hypervisor.refusal import RefusingVm
from kata.hypervisor.spec import VmSpec
from kata.transport.child import Child, Ending


class VmmProcess(RefusingVm):
    """One VMM's process and its console. `undo` releases what was opened for it."""

    def __init__(self, spec: VmSpec, child: Child, console: Console, undo: ExitStack) -> None:
        self.spec = spec
        self.pid = child.pid
        self.start_ticks = child.start_ticks
        self._child = child
        self._console = console
        self._undo = undo
        self._cause = ""
        """Why it ended, where its end itself does not say it."""

    @property
    def has_ended(self) -> bool:
        return self._child.ending is not None

    def read_console(self) -> str:
        return self._console.read_tail()

    async def wait_exit(self) -> VmExit:
        return self._describe_exit(await self._child.wait())

    def _describe_exit(self, ending: Ending) -> VmExit:
        console = self.read_console()
        panicked = "Kernel panic" in console
        cause = self._cause or f"{self.name} {ending.describe()}"
        reason = "the guest's kernel panicked" if panicked else cause
        return VmExit(ending.returncode, reason, console, panicked)

    async def _end(self, *, grace: float = 0.0) -> VmExit:
        """Make sure that it has ended, after `grace` seconds by force, and release what it held. May be repeated."""
        leaving = self._describe_exit(await self._child.stop(grace=grace))
        self._console.close()
        self._undo.close()
        return leaving
