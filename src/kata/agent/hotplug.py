"""CPUs and memory that the host plugs in: made usable by sysfs.

Source: Documentation/admin-guide/mm/memory-hotplug.rst and cpu-hotplug.rst of the kernel.
"""

import contextlib
import os
import re

from kata.agent.uevent import Uevents
from kata.errors import DeadlineError, HostError

_CPUS = "/sys/devices/system/cpu"
_MEMORY = "/sys/devices/system/memory"
_CPU = re.compile(r"cpu[0-9]+")
_BLOCK = re.compile(r"memory[0-9]+")
_APPEAR_WITHIN = 5.0  # seconds


async def online(uevents: Uevents, cpus: int, *, memory: bool) -> None:
    """Bring `cpus` CPUs online in all (0: leave them), and every block of memory. Raise DeadlineError."""
    if cpus:
        try:
            await uevents.wait_for(lambda: _online_cpus(cpus), f"CPU number {cpus}", timeout=_APPEAR_WITHIN)
        except DeadlineError as error:
            raise DeadlineError(f"{_count_cpus()} of {cpus} CPUs came online in the guest") from error
    if memory:
        _online_each(_MEMORY, _BLOCK, 1 << 30)


def _online_cpus(wanted: int) -> bool | None:
    missing = wanted - _count_cpus()
    if missing > 0:
        _online_each(_CPUS, _CPU, missing)
    return True if _count_cpus() >= wanted else None


def _count_cpus() -> int:
    with open(f"{_CPUS}/online", encoding="ascii") as file:
        return count_set(file.read())


def count_set(text: str) -> int:
    """How many numbers a list such as `0-3,8` names."""
    count = 0
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            count += int(last or first) - int(first) + 1
    return count


def _online_each(directory: str, pattern: re.Pattern[str], most: int) -> None:
    for name in sorted(os.listdir(directory)):
        path = f"{directory}/{name}/online"
        if most <= 0 or not pattern.fullmatch(name) or not os.path.exists(path):
            continue
        with open(path, encoding="ascii") as file:
            if file.read().strip() != "0":
                continue
        with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as file:  # refused ones stay offline
            file.write("1")
            most -= 1


def probe_memory(addresses: list[int]) -> None:
    """Tell a kernel without ACPI where memory has been added. Raise HostError."""
    try:
        for address in addresses:
            with open(f"{_MEMORY}/probe", "w", encoding="ascii") as file:
                file.write(f"{address:#x}")
    except OSError as error:
        raise HostError(f"the guest's kernel cannot probe added memory: {error.strerror}") from error


def read_block_size() -> int:
    """The unit of memory hotplug in bytes, 0 when the kernel has none."""
    try:
        with open(f"{_MEMORY}/block_size_bytes", encoding="ascii") as file:
            return int(file.read(), 16)
    except FileNotFoundError:
        return 0


def has_probe() -> bool:
    return os.path.exists(f"{_MEMORY}/probe")
