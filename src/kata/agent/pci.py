"""PCI devices by the slots on the way to them from the root bus, as the agent's protocol names them (`03/00`)."""

import glob
import os
import re

from kata.agent.uevent import Uevents
from kata.errors import HostError, UsageError

_ROOT = "/sys/devices/pci0000:00"
_PATH = re.compile(r"[0-9a-f]{1,2}(\.[0-7])?(/[0-9a-f]{1,2}(\.[0-7])?)*")
_DEVICES = "/sys/bus/pci/devices"
_VFIO = "vfio-pci"


def is_pci_path(text: str) -> bool:
    return _PATH.fullmatch(text) is not None


def make_pci_pattern(path: str) -> str:
    """Return the pattern of a device's directory in sysfs. Raise UsageError for a malformed path."""
    if not is_pci_path(path):
        raise UsageError(f"{path!r} is no way to a PCI device")
    return _ROOT + "".join(f"/*:*:{_slot(part)}" for part in path.split("/"))


def _slot(part: str) -> str:
    slot, _, function = part.partition(".")
    return f"{slot:0>2}.{function or 0}"


def rescan_pci() -> None:
    """Let the kernel look for devices that were plugged in, sooner than it would by itself."""
    tell_kernel("/sys/bus/pci/rescan", "1")


def tell_kernel(path: str, text: str) -> None:
    """Write to a file of sysfs, if this kernel has it."""
    if os.path.exists(path):
        with open(path, "w", encoding="ascii") as file:
            file.write(text)


async def find_pci_device(path: str, uevents: Uevents, *, timeout: float) -> str:
    """Wait for a device, and return its address in the guest. Raise UsageError, DeadlineError."""
    pattern = make_pci_pattern(path)

    def look() -> str | None:
        rescan_pci()
        found = glob.glob(pattern)
        return os.path.basename(found[0]) if found else None

    return await uevents.wait_for(look, f"PCI device {path}", timeout=timeout)


def bind_to_vfio(address: str) -> str:
    """Have vfio-pci take a device of the guest's, and return the node of its IOMMU group. Raise HostError."""
    place = f"{_DEVICES}/{address}"
    try:
        tell_kernel(f"{place}/driver_override", _VFIO)
        if os.path.exists(f"{place}/driver") and os.path.basename(os.readlink(f"{place}/driver")) != _VFIO:
            tell_kernel(f"{place}/driver/unbind", address)
        tell_kernel("/sys/bus/pci/drivers_probe", address)
        group = os.path.basename(os.readlink(f"{place}/iommu_group"))
    except OSError as error:
        raise HostError(
            f"the guest cannot give its PCI device {address} to {_VFIO}: {error.strerror}",
            hint='the guest has no IOMMU: set vfio_mode = "guest-kernel", and a driver of the guest\'s has the device',
        ) from error
    return f"/dev/vfio/{group}"
