"""The agent's first answer, unless the VM or its share ends before."""

import asyncio

from kata.errors import DeadlineError, GuestError, KataError
from kata.hypervisor.channel import AGENT_PORT
from kata.hypervisor.driver import Vm
from kata.sandbox.guest import Guest
from kata.sandbox.line import Line
from kata.sandbox.site import Site
from kata.sandbox.waking import FirstCall
from kata.storage.virtiofsd import Virtiofsd
from kata.sys.process import read_cpu_wait
from kata.transport.child import Ending

_LEAST_WAIT = 0.5
LAST_WORDS_TIMEOUT = 1.0
"""Seconds that a VMM whose connections broke is given to be dead: why it ended says more than a closed socket."""


async def wait_for_end(virtiofsd: Virtiofsd | None) -> Ending:
    """Wait for the end of virtiofsd; for ever where there is none."""
    while virtiofsd is None:
        await asyncio.Event().wait()
    return await virtiofsd.wait()


async def reach_agent(
    site: Site, machine: Vm, virtiofsd: Virtiofsd | None, line: Line, first: FirstCall = Guest.check
) -> Guest:
    """Wait for the agent's first answer, or for the end of the VM or of its share, whichever comes first."""
    reaching = asyncio.create_task(_open_guest(line, machine.pid, float(site.config.agent.dial_timeout), first))
    ending = asyncio.create_task(machine.wait_exit())
    # virtiofsd's worker process can outlive the one that we know, and a guest would boot on a share that is lost.
    unshared = asyncio.create_task(wait_for_end(virtiofsd))
    try:
        await asyncio.wait({reaching, ending, unshared}, return_when=asyncio.FIRST_COMPLETED)
        if unshared.done() or (reaching.done() and isinstance(reaching.exception(), GuestError)):
            # A guest that dies hangs up first, and its share ends with it; how it died is what the operator needs.
            await asyncio.wait({ending}, timeout=LAST_WORDS_TIMEOUT)
        if ending.done():
            raise GuestError(ending.result().reason)
        if unshared.done():
            raise GuestError(f"virtiofsd {unshared.result().describe()}")
        return reaching.result()
    finally:
        for task in (reaching, ending, unshared):
            task.cancel()


async def _open_guest(line: Line, pid: int, timeout: float, first: FirstCall) -> Guest:
    guest = Guest(await line.connect(AGENT_PORT, timeout=timeout))
    try:
        await _wait_for_agent(guest, pid, timeout, first)
    except KataError:
        guest.client.close()
        raise
    return guest


async def _wait_for_agent(guest: Guest, pid: int, timeout: float, first: FirstCall) -> None:
    """Wait for the agent's first answer. Time for which the VM wanted a CPU and got none does not count.

    Twenty VMs that start at once on two CPUs all get there, while one that hangs is given up in time.
    """
    left, waited = timeout, read_cpu_wait(pid)
    while True:
        try:
            return await first(guest, timeout=left)
        except DeadlineError as error:
            before, waited = waited, read_cpu_wait(pid)
            left = waited - before
            if left < _LEAST_WAIT:
                raise DeadlineError(f"the agent did not answer its first call within {timeout:g} s") from error
