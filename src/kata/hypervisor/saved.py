"""Saved VMs as files of a directory: `memory`, a sparse file of the guest's memory, `state`, and what a VMM adds."""

import os
import shutil

from kata.errors import HostError
from kata.hypervisor.memory import copy_memory, write_memory
from kata.hypervisor.spec import VmSpec

MEMORY = "memory"
STATE = "state"

_MODE = 0o444
"""A VMM's user reads them in its cell; the directory is root's."""


def write_saved_memory(memory: int, directory: str) -> None:
    """Write the memory of a VM that stands still. Raise HostError."""
    path = f"{directory}/{MEMORY}"
    try:
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            write_memory(memory, target)
        finally:
            os.close(target)
    except OSError as error:
        raise HostError(f"the memory of a VM cannot be written to {path}: {error.strerror}") from error


def write_saved_file(source: int, path: str) -> None:
    """Copy what a VMM wrote of its VM. Raise HostError."""
    try:
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        with open(source, "rb", closefd=False) as written, open(target, "wb") as file:
            shutil.copyfileobj(written, file)
    except OSError as error:
        raise HostError(f"the state of a VM cannot be written to {path}: {error.strerror}") from error


def fill_memory(directory: str, path: str) -> None:
    """Put what a saved VM had in memory into a file of zeros. Raise HostError.

    Blocks for a millisecond or two a MiB.
    """
    try:
        with open(f"{directory}/{MEMORY}", "rb") as source, open(path, "r+b") as target:
            copy_memory(source.fileno(), target.fileno())
    except OSError as error:
        raise HostError(f"a saved VM cannot be copied: {error.strerror}") from error


def omit_own(spec: VmSpec) -> VmSpec:
    """Describe a VM without what one sandbox has for itself: the same for all that can go on from each other."""
    return spec._replace(id="", directory="", saved="", savable=True)


def list_files(spec: VmSpec, *own: str) -> tuple[str, ...]:
    """Return the files that are in a saved VM: those of the guest, and the VMM's `own`, as far as there are any."""
    return tuple(path for path in (*own, spec.kernel, spec.initrd, spec.image) if path)


def describe_kvm_host() -> list[str]:
    """What of this host a VM under KVM depends on that was saved: its kernel, and what its processor is and can.

    The processor as the kernel tells it in /proc/cpuinfo of the first.
    """
    wanted = ("vendor_id", "cpu family", "model", "stepping", "microcode", "flags", "bugs")
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        first = file.read().partition("\n\n")[0]
    lines = [line for line in first.splitlines() if line.partition("\t")[0].strip() in wanted]
    return [os.uname().release, *lines]
