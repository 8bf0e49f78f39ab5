"""vCPUs and memory that come and go while the VM runs.

vCPUs by ACPI: QEMU's docs/specs/acpi_cpu_hotplug.rst. Memory by virtio-mem, one device in which the guest plugs and
unplugs blocks of a few MiB as it is asked to (Virtual I/O Device specification 1.2, section 5.15): it needs no slots,
and gives back what it can instead of all of a module or nothing.
"""

import asyncio
from typing import Any

from kata.errors import ConfigError, DeadlineError
from kata.hypervisor.qemu.arguments import GROWTH
from kata.hypervisor.spec import VmSpec
from kata.transport.qmp import QmpSession

_PLUGGED = "/machine/peripheral/"
"""Where QEMU keeps what was plugged in. An emulated VM has its vCPUs from the start, and does not lose them: for each
that comes anew QEMU's TCG needs another context, and has one for each that there can be at once."""

_PAUSE = 0.02
"""Seconds between looks at what the guest took. QEMU's event of it comes once a second at most (qapi/machine.json)."""


class Resize:
    """The size of one VM. Its calls are made one after the other."""

    def __init__(self, session: QmpSession, spec: VmSpec) -> None:
        self._session = session
        self._spec = spec
        self._count = 0

    async def resize_vcpus(self, count: int, *, timeout: float) -> None:
        """Have `count` vCPUs. Raise ConfigError for a number that this VM cannot have, DeadlineError."""
        least, most = self._spec.vcpus, self._spec.max_vcpus or self._spec.vcpus
        if not least <= count <= most:
            raise ConfigError(f"the VM cannot have {count} vCPUs", hint=f"{least} to {most}")
        places = await self._list_places()
        present = [place["qom-path"] for place in places if "qom-path" in place]
        free = [place for place in places if "qom-path" not in place]
        for place in free[: max(0, count - len(present))]:
            # Names are never used twice: DEVICE_DELETED of an earlier vCPU must not be taken for this one's.
            self._count += 1
            vcpu = {"driver": place["type"], "id": f"vcpu{self._count}", **place["props"]}
            await self._session.execute("device_add", vcpu)
        for path in reversed(present[count:]):
            if path.startswith(_PLUGGED):
                await self._unplug(path, timeout)

    async def _list_places(self) -> list[dict[str, Any]]:
        """Where vCPUs are, and where more can be: the first first."""
        return sorted(await self._session.execute("query-hotpluggable-cpus"), key=list_position)

    async def _unplug(self, path: str, timeout: float) -> None:
        """Ask the guest to let go of a vCPU, and wait until it has."""
        await self._session.execute("device_del", {"id": path})
        await self._session.wait_event("DEVICE_DELETED", lambda data: data.get("path") == path, timeout=timeout)

    async def resize_memory(self, mib: int, *, timeout: float) -> None:
        """Have `mib`, at once if that is more. Raise ConfigError for what this VM cannot have, DeadlineError."""
        least, most = self._spec.memory_mib, self._spec.max_memory_mib or self._spec.memory_mib
        if not least <= mib <= most:
            raise ConfigError(f"the VM cannot have {mib} MiB of memory", hint=f"{least} to {most} MiB")
        if least == most:
            return
        wanted = (mib - least) << 20
        await self._access("qom-set", "requested-size", value=wanted)
        try:
            async with asyncio.timeout(timeout):
                while await self._read_growth() < wanted:  # noqa: ASYNC110 - see _PAUSE
                    await asyncio.sleep(_PAUSE)
        except TimeoutError as error:
            has = least + (await self._read_growth() >> 20)
            raise DeadlineError(f"the guest took {has} MiB of memory of {mib} within {timeout:g} s") from error

    async def _read_growth(self) -> int:
        """Bytes that the guest has plugged."""
        return int(await self._access("qom-get", "size"))

    async def _access(self, command: str, name: str, **more: int) -> Any:
        return await self._session.execute(command, {"path": f"/machine/peripheral/{GROWTH}", "property": name, **more})


def list_position(place: dict[str, Any]) -> list[int]:
    """Where a vCPU is in the machine, as numbers that sort. Source of the names: CpuInstanceProperties, qapi."""
    names = ("node-id", "socket-id", "die-id", "cluster-id", "core-id", "thread-id")
    return [int(place["props"].get(name, 0)) for name in names]
