"""The VM of a sandbox, with all that belongs to it on the host: share, virtiofsd, VMM, the connection to the agent."""

import asyncio
from contextlib import AsyncExitStack
from typing import NamedTuple

from kata.hypervisor.driver import Vm
from kata.hypervisor.spec import PciAddress
from kata.resources.oom import OomWatch
from kata.resources.size import VmSize
from kata.sandbox.guest import Guest
from kata.sandbox.reach import LAST_WORDS_TIMEOUT, wait_for_end
from kata.storage.share import Share
from kata.storage.virtiofsd import Virtiofsd

SHARE_TAG = "kataShared"
"""By which the guest finds the share."""


class SandboxVm(NamedTuple):
    """A VM whose agent answers. `stop` releases all of it.

    `share` and `virtiofsd` are None for one that shares no files. It has so many hot-plug `ports`, full or empty, and
    perhaps a controller of SCSI disks.
    """

    guest: Guest
    share: Share | None
    machine: Vm
    virtiofsd: Virtiofsd | None
    owned: AsyncExitStack
    agent_url: str
    size: VmSize
    oom: OomWatch
    ports: int
    scsi: bool
    places: tuple[tuple[str, PciAddress], ...] = ()
    """Where the guest finds the host's devices that the VM was started with, by their ids."""

    def list_pids(self) -> tuple[int, ...]:
        """Return the host processes that are this VM."""
        return (self.machine.pid, *([self.virtiofsd.pid] if self.virtiofsd is not None else []))

    async def wait_end(self) -> str:
        """Wait until the VM has ended, or has to because its share or its agent is lost, and say why."""
        exited = asyncio.create_task(self.machine.wait_exit())
        unshared = asyncio.create_task(wait_for_end(self.virtiofsd))
        lost = asyncio.create_task(self.guest.client.lost.wait())
        try:
            await asyncio.wait({exited, unshared, lost}, return_when=asyncio.FIRST_COMPLETED)
            # virtiofsd and the agent's line end with their VM, and may be seen to end first; it says what happened.
            await asyncio.wait({exited}, timeout=LAST_WORDS_TIMEOUT)
        finally:
            for task in (exited, unshared, lost):
                task.cancel()
        if exited.done():
            reason = exited.result().reason
        elif unshared.done():
            reason = f"virtiofsd {unshared.result().describe()}"
        else:
            reason = self.guest.client.describe_loss().message
        await self.machine.stop(timeout=0)
        return self.oom.explain() or reason

    async def stop(self) -> None:
        """End the VM and release what it held, in reverse order of making."""
        await self.owned.aclose()
