"""How big this machine is."""

import os
from typing import NamedTuple


class HostSize(NamedTuple):
    cpus: int
    memory_mib: int


def measure_host() -> HostSize:
    """Return the processors that are online and the memory that the kernel has. Source: sysconf(3)."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return HostSize(os.sysconf("SC_NPROCESSORS_ONLN"), memory >> 20)
