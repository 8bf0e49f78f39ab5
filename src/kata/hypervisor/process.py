"""A VM that is one process of its VMM: how it comes up, how it ended and why, and what is released with it."""

import asyncio
import signal
from contextlib import suppress

from kata.errors import GuestError, KataError, StartError
from kata.hypervisor.driver import Started, VmExit
from kata.hypervisor.launch import Launch
from kata.hypervisor.refusal import RefusingVm
from kata.hypervisor.spec import VmState
from kata.transport.child import Child, Ending


class VmmProcess(RefusingVm):
    """One VMM's process, its console, and all that was opened for it. A driver's VM builds on it.

    A driver says what differs: how its VMM is made to have the VM (`_create`), asked for its state (`_ask_state`) and
    to end (`_ask_to_end`), and how what is known of its end is understood (`_explain`, `_has_panicked`).
    """

    def __init__(self, launch: Launch, child: Child) -> None:
        self.spec = launch.spec
        self.pid = child.pid
        self.start_ticks = child.start_ticks
        self._child = child
        self._console = launch.console
        self._kept = launch.kept.pop_all()

    async def bring_up(self, started: Started, *, timeout: float) -> None:
        """Have the VMM make the VM; end it where that fails. Raise StartError."""
        try:
            started(self.pid)
            async with asyncio.timeout(timeout):
                await self._create_unless_ended(timeout)
        except BaseException as error:
            # Cancelled or failed: the VM is nobody's, so it goes, and what it said goes into the error.
            ending = await self.stop(timeout=0)
            if isinstance(error, KataError | TimeoutError):
                reason = str(error) or f"{self.name} did not start the VM within {timeout:g} s"
                raise StartError("hypervisor", reason, console=ending.console) from error
            raise

    async def _create_unless_ended(self, timeout: float) -> None:
        """Have the VMM make the VM. Raise GuestError that says how it ended, where it did."""
        creating = asyncio.create_task(self._create(timeout=timeout))
        ending = asyncio.create_task(self._child.wait())
        try:
            await asyncio.wait({creating, ending}, return_when=asyncio.FIRST_COMPLETED)
            if creating.done() and creating.exception() is None:
                return
            # It hangs up a moment before it has ended; its last words say more than a closed socket.
            await asyncio.wait({ending}, timeout=1.0)
            if ending.done():
                raise GuestError((await self.wait_exit()).reason)
            await creating
        finally:
            creating.cancel()
            ending.cancel()
            await asyncio.gather(creating, ending, return_exceptions=True)

    async def _create(self, *, timeout: float) -> None:
        """Have the VMM make the VM and, unless it is to be paused, run it; nothing where its command line says all.

        It is cancelled after `timeout` seconds.
        """

    @property
    def has_ended(self) -> bool:
        return self._child.ending is not None

    async def query_state(self) -> VmState:
        return "ended" if self.has_ended else await self._ask_state()

    async def _ask_state(self) -> VmState:
        """Whether the vCPUs run, by a VMM that runs."""
        return "running"

    def read_console(self) -> str:
        return self._console.read_tail()

    async def wait_exit(self) -> VmExit:
        ending = await self._child.wait()
        console = self.read_console()
        panicked = self._has_panicked(console)
        reason = "the guest's kernel panicked" if panicked else self._explain(ending)
        return VmExit(ending.returncode, reason, console, panicked)

    def _has_panicked(self, console: str) -> bool:
        """Whether that is why it ended, by the end of the console and what the VMM told."""
        return "Kernel panic" in console

    def _explain(self, ending: Ending) -> str:
        """Say why it ended, where the guest's kernel did not panic."""
        return f"{self.name} {ending.describe()}"

    async def stop(self, *, timeout: float = 2.0) -> VmExit:
        if not self.has_ended and timeout > 0:
            with suppress(KataError, TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._ask_to_end()
                    await self._child.wait()
        await self._child.stop()
        leaving = await self.wait_exit()
        await self._hang_up()
        self._kept.close()
        return leaving

    async def _ask_to_end(self) -> None:
        """Ask the VMM politely. Raise KataError where it does not take that."""
        self._child.send_signal(signal.SIGTERM)

    async def _hang_up(self) -> None:
        """Let go of a VMM that has ended. May be repeated."""
