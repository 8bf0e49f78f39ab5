"""Being a template, and being a copy of one: what a guest does before it is saved, and first of all afterwards."""

import mmap

from kata.agent import clock, entropy
from kata.agent.sandbox import Sandbox
from kata.errors import HostError
from kata.protocol.messages import agent
from kata.protocol.messages import template as wire
from kata.protocol.messages.types import Empty
from kata.transport.ttrpc import Method, Services

_FILLED = 64 << 20
_SPARED = 48 << 20
_SECOND = 1_000_000_000


class Template:
    """What the service does for a sandbox that is not made yet."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def prepare(self, _: Empty) -> Empty:
        """Have ready what the first container needs, and hold nothing else.

        Nothing here may draw a number that copies are to have each for itself: the kernel makes its boot id and the
        secrets of TCP when they are first asked for.
        """
        _tell_kernel("/proc/sys/vm/drop_caches", "3")
        await self._sandbox.rehearse(agent.CreateSandboxRequest())
        _clear_free_memory()
        return Empty()

    async def rehearse(self, request: agent.CreateSandboxRequest) -> Empty:
        """Make such a sandbox with a container and take it down again, so that the next one is made quicker.

        An emulated processor has the code translated then.
        """
        await self._sandbox.rehearse(request)
        return Empty()

    async def wake(self, request: wire.Waking) -> Empty:
        """Become another guest than the template and its copies. Raise UsageError, HostError."""
        entropy.reseed(request.entropy)
        clock.set_time(request.nanoseconds // _SECOND, request.nanoseconds % _SECOND // 1000)
        for slot in request.slots:
            try:
                _tell_kernel(f"/sys/bus/pci/devices/0000:00:{slot:02x}.0/rescan", "1")
            except OSError as error:
                raise HostError(f"the guest cannot look into its slot {slot:02x}: {error.strerror}") from error
        return Empty()


def _tell_kernel(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _clear_free_memory() -> None:
    """Overwrite what freed pages held, as far as they lie scattered: pages of zeros are not saved.

    The kernel hands out the small pieces first, and clears what a process gets.
    """
    with open("/proc/meminfo", encoding="ascii") as file:
        free = next(int(line.split()[1]) << 10 for line in file if line.startswith("MemFree:"))
    size = min(_FILLED, free - _SPARED)
    if size > 0:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        mmap.mmap(-1, size, flags=flags).close()


def list_template_services(sandbox: Sandbox) -> Services:
    """Return the table of the service."""
    template = Template(sandbox)
    methods = {
        "Prepare": Method(Empty, template.prepare),
        "Rehearse": Method(agent.CreateSandboxRequest, template.rehearse),
        "Wake": Method(wire.Waking, template.wake),
    }
    return {wire.SERVICE: methods}
