"""Devices of the host's making: where the kernel shows them, and how a container gets them."""

import asyncio
import errno
import glob
import os
import re
import stat
import time
from collections.abc import Iterable, Mapping, Sequence

from kata.agent.pci import bind_to_vfio, find_pci_device, is_pci_path, make_pci_pattern, rescan_pci, tell_kernel
from kata.agent.uevent import Uevents
from kata.errors import UnsupportedError, UsageError
from kata.protocol.messages.agent import Device
from kata.protocol.messages.oci import Linux, LinuxDevice, LinuxDeviceCgroup, LinuxResources, Spec

_SCSI_ADDRESS = re.compile(r"[0-9]+:[0-9]+")
_VARIABLE = "PCIDEVICE_"
"""How SR-IOV's device plug-in begins the names of its variables."""

_UNUSED_WITHIN = 5.0  # seconds
_LOOK_AGAIN = 0.02

HANDLERS = ("blk", "mmioblk", "scsi", "nvdimm", "vfio-pci-gk", "vfio-pci")
_VFIO = {"vfio-pci-gk", "vfio-pci"}


async def find_node(driver: str, source: str, uevents: Uevents, *, timeout: float) -> str:
    """Wait for a block device and return its node. Raise UsageError for a malformed source, DeadlineError.

    `source` is a node, or for `blk` the PCI slots on the way to the device (`02/03`), or for `scsi` its `id:lun`.
    """
    if source.startswith("/dev/"):
        return await uevents.wait_for(lambda: source if _can_open(source) else None, source, timeout=timeout)
    if driver == "blk" and is_pci_path(source):
        rescan_pci()
        pattern = make_pci_pattern(source) + "/virtio*/block/*"
    elif driver == "scsi" and _SCSI_ADDRESS.fullmatch(source):
        target, lun = source.split(":")
        for host in glob.glob("/sys/class/scsi_host/host*/scan"):
            tell_kernel(host, f"0 {target} {lun}")
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


async def add_devices(devices: Iterable[Device], spec: Spec, uevents: Uevents, *, timeout: float) -> None:
    """Put the guest's numbers of the host's devices into a specification, which has the host's.

    Raise UnsupportedError for kinds that this guest cannot find, UsageError for a device that the specification lacks.
    """
    for device in devices:
        if device.type not in HANDLERS:
            raise UnsupportedError(f"the guest cannot give devices of type {device.type!r} to a container")
        if device.type in _VFIO:
            await _add_vfio(device, spec, uevents, timeout=timeout)
            continue
        source = device.vm_path or device.id
        if device.type in {"blk", "scsi"} and device.id and not device.id.startswith("/dev/"):
            source = device.id
        node = await find_node(device.type, source, uevents, timeout=timeout)
        _renumber(spec, device.container_path, node)


async def _add_vfio(device: Device, spec: Spec, uevents: Uevents, *, timeout: float) -> None:
    """Find the devices of a host's IOMMU group: each option is its address there, `=`, and the way to it here.

    By the type the guest's own drivers have them (`vfio-pci-gk`), or the container gets the group of the guest's.
    """
    known: dict[str, str] = {}
    for option in device.options:
        address, _, path = option.partition("=")
        known[address] = await find_pci_device(path, uevents, timeout=timeout)
    _translate_addresses(spec, known)
    if device.type == "vfio-pci":
        nodes = {bind_to_vfio(address) for address in known.values()}
        if len(nodes) != 1:
            raise UnsupportedError(f"the devices of {device.container_path} are in {len(nodes)} IOMMU groups here")
        _give_nodes(spec, ("/dev/vfio/vfio", nodes.pop()))


def _give_nodes(spec: Spec, nodes: Sequence[str]) -> None:
    """Give a container character devices that its specification does not list."""
    linux = spec.Linux = spec.Linux or Linux()
    linux.Resources = linux.Resources or LinuxResources()
    for node in nodes:
        number = os.stat(node).st_rdev
        major, minor = os.major(number), os.minor(number)
        linux.Devices.append(LinuxDevice(Path=node, Type="c", Major=major, Minor=minor, FileMode=0o600))
        linux.Resources.Devices.append(LinuxDeviceCgroup(Allow=True, Type="c", Major=major, Minor=minor, Access="rwm"))


def _translate_addresses(spec: Spec, known: Mapping[str, str]) -> None:
    """Give the guest's addresses to variables by which device plug-ins tell a container of its devices."""
    if spec.Process is None:
        return
    for index, variable in enumerate(spec.Process.Env):
        name, _, value = variable.partition("=")
        if name.startswith(_VARIABLE):
            value = ",".join(known.get(word, word) for word in value.split(","))
            spec.Process.Env[index] = f"{name}={value}"


def _renumber(spec: Spec, path: str, node: str) -> None:
    """Give a device of the container the numbers of a node."""
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
