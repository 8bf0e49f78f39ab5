"""PCI devices of the host that a VM gets: found, checked, taken from their drivers, and given back to them.

A VM gets all of an IOMMU group or none of it: devices in one group can reach each other's memory past the IOMMU.

Sources: Documentation/driver-api/vfio.rst and Documentation/ABI/testing/sysfs-bus-pci of the kernel.
"""

import errno
import os
import re
import time
from typing import Final, NamedTuple

from kata.errors import DeadlineError, HostError, NotFoundError, UsageError
from kata.sys.file import read_text

VFIO_DRIVER = "vfio-pci"
_HARMLESS = {"", VFIO_DRIVER, "pci-stub"}
"""Drivers, or none, that leave a device to the group's user (vfio_dev_driver_allowed in drivers/vfio)."""

_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_BRIDGE: Final = 0x06
"""The class of bridges, in the first byte of three: they need no driver of VFIO's."""

_PAUSE: Final = 0.05
_SYSFS = "/sys"


class HostDevice(NamedTuple):
    """A PCI device. `driver` is "" for one that none has, `group` the number of its IOMMU group."""

    address: str
    driver: str
    group: str


def is_pci_address(text: str) -> bool:
    """Say whether it is an address such as `0000:65:00.0`."""
    return _ADDRESS.fullmatch(text) is not None


def read_device(address: str, sysfs: str = _SYSFS) -> HostDevice:
    """Look at a device. Raise NotFoundError, or HostError for one that no IOMMU is in front of."""
    place = f"{sysfs}/bus/pci/devices/{address}"
    if not is_pci_address(address) or not os.path.isdir(place):
        raise NotFoundError(f"the host has no PCI device {address}")
    if not os.path.exists(f"{place}/iommu_group"):
        raise HostError(
            f"the PCI device {address} is in no IOMMU group, so no VM can have it",
            hint="turn the IOMMU on in the firmware, and with intel_iommu=on where the host is Intel's",
        )
    return HostDevice(address, _name_link(f"{place}/driver"), _name_link(f"{place}/iommu_group"))


def _name_link(path: str) -> str:
    try:
        return os.path.basename(os.readlink(path))
    except FileNotFoundError:
        return ""


def list_group(group: str, sysfs: str = _SYSFS) -> list[HostDevice]:
    """Return the devices of an IOMMU group without its bridges. Raise NotFoundError for a group that is not there."""
    place = f"{sysfs}/kernel/iommu_groups/{group}/devices"
    try:
        names = sorted(os.listdir(place))
    except FileNotFoundError as error:
        has_any = os.path.isdir(f"{sysfs}/kernel/iommu_groups") and os.listdir(f"{sysfs}/kernel/iommu_groups")
        hint = None if has_any else "this host has no IOMMU, or it is off: see the firmware, and intel_iommu=on"
        raise NotFoundError(f"the host has no IOMMU group {group}", hint=hint) from error
    return [read_device(name, sysfs) for name in names if is_pci_address(name) and not _is_bridge(name, sysfs)]


def _is_bridge(address: str, sysfs: str) -> bool:
    text = read_text(f"{sysfs}/bus/pci/devices/{address}/class").strip()
    return bool(text) and int(text, 16) >> 16 == _BRIDGE


def check_group(group: str, taken: str = "", sysfs: str = _SYSFS) -> list[HostDevice]:
    """Return the devices of a group that a VM can have, the one at the address `taken` being about to be.

    Raise HostError that names those which a driver of the host's has.
    """
    devices = list_group(group, sysfs)
    others = [device for device in devices if device.driver not in _HARMLESS and device.address != taken]
    if others:
        held = ", ".join(f"{device.address} (driver {device.driver})" for device in others)
        raise HostError(
            f"IOMMU group {group} cannot be given to a VM: the host itself uses {held} of it",
            hint=f"a group goes to a VM as a whole: bind them to {VFIO_DRIVER}, or to no driver",
        )
    return devices


def take_device(address: str, sysfs: str = _SYSFS) -> None:
    """Have vfio-pci take a device over from whatever driver has it. Raise HostError."""
    _set_driver(address, VFIO_DRIVER, sysfs)
    if read_device(address, sysfs).driver != VFIO_DRIVER:
        raise HostError(f"the PCI device {address} was not taken by {VFIO_DRIVER}", hint=f"modprobe {VFIO_DRIVER}")


def give_back(address: str, driver: str, sysfs: str = _SYSFS) -> None:
    """Return a device to the driver that had it, or to none for "". May be repeated. Raise HostError."""
    if not os.path.isdir(f"{sysfs}/bus/pci/devices/{address}"):
        return  # pulled out
    if driver and _name_link(f"{sysfs}/bus/pci/devices/{address}/driver") == driver:
        return
    _set_driver(address, driver, sysfs)


def _set_driver(address: str, driver: str, sysfs: str) -> None:
    place = f"{sysfs}/bus/pci/devices/{address}"
    override = driver if driver == VFIO_DRIVER else "\n"
    try:
        _write(f"{place}/driver_override", override)
        if os.path.exists(f"{place}/driver"):
            _write(f"{place}/driver/unbind", address)
        if driver == VFIO_DRIVER:
            _write(f"{sysfs}/bus/pci/drivers_probe", address)
        elif driver:
            _write(f"{sysfs}/bus/pci/drivers/{driver}/bind", address)
    except OSError as error:
        what = f"given to the driver {driver}" if driver else "taken from its driver"
        raise HostError(f"the PCI device {address} cannot be {what}: {error.strerror}") from error


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def find_node(group: str) -> str:
    """Return the character device by which whoever may open it has the group."""
    return f"/dev/vfio/{group}"


def lend_group(group: str, user: int) -> None:
    """Let a VMM of this user open a group. Raise HostError."""
    _change_owner(group, user, user)


def reclaim_group(group: str, borrower: int, user: int, group_id: int) -> None:
    """Give a group's node back to whom it was of, if it is the borrower's still. Raise HostError."""
    try:
        owner = os.stat(find_node(group)).st_uid
    except FileNotFoundError:
        return
    if owner == borrower:
        _change_owner(group, user, group_id)


def _change_owner(group: str, user: int, group_id: int) -> None:
    try:
        os.chown(find_node(group), user, group_id, follow_symlinks=False)
    except OSError as error:
        raise HostError(f"{find_node(group)} cannot be handed over: {error.strerror}") from error


def wait_unused(group: str, *, timeout: float) -> None:
    """Wait until no VMM has the group open: the kernel takes a device from vfio-pci only then. Raise DeadlineError."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            os.close(os.open(find_node(group), os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                return
        else:
            return
        if time.monotonic() > deadline:
            raise DeadlineError(f"somebody has IOMMU group {group} open for {timeout:g} s still")
        time.sleep(_PAUSE)  # the kernel tells nobody of it


def find_group_of_node(path: str, major: int, minor: int, sysfs: str = _SYSFS) -> str:
    """Return the IOMMU group of a character device, "" for VFIO's container (`/dev/vfio/vfio`).

    `path` is its name for people. Raise UsageError for a device that is none of VFIO's.
    """
    lines = read_text(f"{sysfs}/dev/char/{major}:{minor}/uevent").splitlines()
    name = next((line.removeprefix("DEVNAME=") for line in lines if line.startswith("DEVNAME=")), "")
    word = name.removeprefix("vfio/")
    if word == "vfio":
        return ""
    if word == name or not word.isdigit():
        raise UsageError(
            f"{path} is no IOMMU group of this host: it has no such device with the numbers {major}:{minor}",
            hint="bind the device to vfio-pci first, and turn the host's IOMMU on",
        )
    return word
