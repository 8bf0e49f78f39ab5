"""What a sandbox's VM needs places for: its first container's devices, and those that may come."""

import os
from typing import NamedTuple

from kata.config.model import SCRATCH_ON_DISK, Configuration
from kata.sandbox.bundle import Bundle
from kata.sandbox.hostdisk import find_disks
from kata.sandbox.iommugroup import find_groups
from kata.sandbox.scratch import count_scratch_volumes
from kata.sandbox.volume import count_direct_volumes

_POD_ROOTS = 8
"""Places for the roots of a pod's containers, where each is a disk and needs a port."""


class Needs(NamedTuple):
    """What is plugged in later: `disks` that are known of, `roots` that are disks where no files are shared.

    With `more` any number of disks may come. `ports` are for other devices, and for those disks where each needs one.
    """

    ports: int = 0
    disks: int = 0
    roots: int = 0
    more: bool = False


def count_needs(first: Bundle, config: Configuration, disks: int, *, pod: bool, links: bool) -> Needs:
    """Count what the first container has, `disks` of them for its root, and what may come.

    Later containers of a `pod` bring disks, and engines `links` where there is a namespace for them.
    """
    root = disks or not os.path.isdir(first.rootfs)
    ports = config.hypervisor.pcie_root_port if pod or links else 0
    groups = find_groups(first.spec)
    if groups:
        from kata.sandbox.passthrough import count_devices  # noqa: PLC0415 - few containers have one

        ports += count_devices(groups, config)
    known = len(find_disks(first.spec)) + count_direct_volumes(first.spec)
    if config.runtime.emptydir_mode == SCRATCH_ON_DISK:
        known += count_scratch_volumes(first.spec)
    return Needs(ports, disks + known + (not disks and root), roots=_POD_ROOTS if pod else 0 if root else 1, more=pod)
