"""Devices of the host's making: where the kernel shows them, and how a container gets them."""

import asyncio
import errno
import glob
import os
import re
import stat
import time
from collections.abc import Iterable

from kata.agent.uevent import Uevents
from kata.errors import UnsupportedError, UsageError
from kata.protocol.messages.agent import Device
from kata.protocol.messages.oci import LinuxDeviceCgroup, LinuxResources, Spec

_PCI_ROOT = "/sys/devices/pci0000:00"
_PCI_PATH = re.compile(r"[0-9a-f]{1,2}(\.[0-7])?(/[0-9a-f]{1,2}(\.[0-7])?)*")
_SCSI_ADDRESS = re.compile(r"[0-9]+:[0-9]+")
_UNUSED_WITHIN = 5.0  # seconds
_LOOK_AGAIN = 0.02

HANDLERS = ("blk", "mmioblk", "scsi", "nvdimm")


async def find_node(driver: str, source: str, uevents: Uevents, *, timeout: float) -> str:
    """Wait for a block device and return its node. Raise UsageError for a malformed source, DeadlineError.

    `source` is a node, or for `blk` the PCI slots on the way to the device (`02/03`), or for `scsi` its `id:lun`.
    """
    if source.startswith("/dev/"):
        return await uevents.wait_for(lambda: source if _can_open(source) else None, source, timeout=timeout)
    if driver == "blk" and _PCI_PATH.fullmatch(source):
        _rescan("/sys/bus/pci/rescan", "1")
        pattern = _PCI_ROOT + "".join(f"/*:*:{_slot(part)}" for part in source.split("/")) + "/virtio*/block/*"
    elif driver == "scsi" and _SCSI_ADDRESS.fullmatch(source):
        target, lun = source.split(":")
        for host in glob.glob("/sys/class/scsi_host/host*/scan"):
            _rescan(host, f"0 {target} {lun}")
        pattern = f"/sys/bus/scsi/devices/*:0:{target}:{lun}/block/*"
    else:
        raise UsageError(f"the guest cannot find a device of driver {driver} by {source!r}")
    return await uevents.wait_for(lambda: _find(pattern), f"block device {source}", timeout=timeout)


async def wait_unused(node: str) -> None:
    """Wait until no file system is on a block device any more, so that the host can take it out.

    The kernel lets go of a container's mounts in the background, and writes back what it holds in doing so. As long as
    a device is mounted, nobody else gets it exclusively (open(2), O_EXCL). After some seconds it is synced instead.
    """
    deadline = time.monotonic() + _UNUSED_WITHIN
    while time.monotonic() < deadline:
        try:
            os.close(os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError as error:
            if error.errno != errno.EBUSY:
                return
        else:
            return
        await asyncio.sleep(_LOOK_AGAIN)
    os.sync()


def _slot(part: str) -> str:
    slot, _, function = part.partition(".")
    return f"{slot:0>2}.{function or 0}"


def _find(pattern: str) -> str | None:
    for path in glob.glob(pattern):
        node = f"/dev/{os.path.basename(path)}"
        if _can_open(node):
            return node
    return None


def _can_open(node: str) -> bool:
    """Say whether a disk is there: its node is so a little before the kernel opens it."""
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _rescan(path: str, text: str) -> None:
    if os.path.exists(path):
        with open(path, "w", encoding="ascii") as file:
            file.write(text)


async def add_devices(devices: Iterable[Device], spec: Spec, uevents: Uevents, *, timeout: float) -> None:
    """Put the guest's numbers of the host's devices into a specification, which has the host's.

    Raise UnsupportedError for kinds that this guest cannot find, UsageError for a device that the specification lacks.
    """
    for device in devices:
        if device.type not in HANDLERS:
            raise UnsupportedError(f"the guest cannot give devices of type {device.type!r} to a container")
        source = device.vm_path or device.id
        if device.type in {"blk", "scsi"} and device.id and not device.id.startswith("/dev/"):
            source = device.id
        node = await find_node(device.type, source, uevents, timeout=timeout)
        _renumber(spec, device.container_path, node)


def _renumber(spec: Spec, path: str, node: str) -> None:
    linux = spec.Linux
    found = next((entry for entry in (linux.Devices if linux else []) if entry.Path == path), None)
    if linux is None or found is None:
        raise UsageError(f"the container's specification lists no device {path}")
    status = os.stat(node)
    kind = "b" if stat.S_ISBLK(status.st_mode) else "c"
    before = (found.Type, found.Major, found.Minor)
    found.Type, found.Major, found.Minor = kind, os.major(status.st_rdev), os.minor(status.st_rdev)
    linux.Resources = linux.Resources or LinuxResources()
    for rule in linux.Resources.Devices:
        if (rule.Type, rule.Major, rule.Minor) == before:
            rule.Type, rule.Major, rule.Minor = found.Type, found.Major, found.Minor
            return
    if linux.Resources.Devices:
        allowed = LinuxDeviceCgroup(Allow=True, Type=kind, Major=found.Major, Minor=found.Minor, Access="rwm")
        linux.Resources.Devices.append(allowed)
