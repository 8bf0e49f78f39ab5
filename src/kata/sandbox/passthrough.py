"""Devices of the host that a VM has: noted in the sandbox's ledger, taken, lent to the VMM's user, plugged in.

Network interfaces that are hardware (`physical`), and IOMMU groups that an engine gives to a container as its devices
(`/dev/vfio/7`), which whoever told it to has bound to vfio-pci.
"""

import json
import os

from kata.config.model import NO_PORT, Configuration
from kata.errors import HostError, KataError, UnsupportedError, UsageError
from kata.hypervisor.driver import Vm
from kata.hypervisor.spec import VfioDevice
from kata.hypervisor.vmmuser import derive_user_id
from kata.network.physical import find_pci_address
from kata.protocol.messages import agent as wire
from kata.resources.hostdevice import (
    VFIO_DRIVER,
    HostDevice,
    check_group,
    find_group_of_node,
    find_node,
    lend_group,
    read_device,
    reclaim_group,
    take_device,
)
from kata.sandbox.iommugroup import Group
from kata.sandbox.ledger import Kind, record_resource

_UNPLUG_TIMEOUT = 30.0


def find_card(name: str) -> str:
    """Return the PCI address of a link of the calling thread's namespace, "" for a link that is no hardware.

    Raise HostError.
    """
    try:
        return find_pci_address(name)
    except OSError as error:
        raise HostError(f"network interface {name} cannot be looked up in sysfs: {error.strerror}") from error


def take_card(directory: str, sandbox: str, name: str, address: str, namespace: tuple[int, str]) -> VfioDevice:
    """Take a network interface from its driver, for the VM of the sandbox at `directory`. It is gone on return.

    `namespace` is that of the pod by inode and path: there it comes back to. Raise HostError, and leave it where it is
    when its IOMMU group cannot be had.
    """
    try:
        device = read_device(address)
        check_group(device.group, address)
    except KataError as error:
        error.message = f"network interface {name} cannot go to a VM: {error.message}"
        raise
    inode, path = namespace
    note = {"address": address, "driver": device.driver, "group": device.group, "name": name, "inode": inode}
    record_resource(directory, Kind.DEVICE, json.dumps({**note, "path": path}))
    take_device(address)
    _lend(directory, sandbox, device.group)
    return VfioDevice(f"card-{name}", address)


def _lend(directory: str, sandbox: str, group: str) -> None:
    """Let the VMM's user open a group. Raise HostError."""
    user = derive_user_id(sandbox)
    try:
        status = os.stat(find_node(group))
    except OSError as error:
        raise HostError(f"IOMMU group {group} has no {find_node(group)}", hint=f"modprobe {VFIO_DRIVER}") from error
    record_resource(directory, Kind.GROUP, f"{group} {user} {status.st_uid} {status.st_gid}")
    lend_group(group, user)


def count_devices(groups: tuple[Group, ...], config: Configuration) -> int:
    """Return how many devices these are. Raise what `resolve_group` raises."""
    return sum(len(resolve_group(group, config)[1]) for group in groups)


def resolve_group(group: Group, config: Configuration) -> tuple[str, list[HostDevice]]:
    """Return the number of a group and its devices, all of which a VM can have.

    Raise UnsupportedError where the configuration has no ports for them, UsageError for what is no group or not VFIO's,
    HostError for one of which the host itself uses a device.
    """
    if config.hypervisor.hot_plug_vfio == NO_PORT:
        hint = 'set hot_plug_vfio = "root-port" in the table of the hypervisor'
        raise UnsupportedError(f"{group.path} cannot be had: VMs get no devices of the host", hint=hint)
    try:
        number = find_group_of_node(*group)
        devices = check_group(number)
    except KataError as error:
        error.message = f"{group.path} cannot be had: {error.message}"
        raise
    idle = [device.address for device in devices if device.driver != VFIO_DRIVER]
    if idle or not devices:
        raise UsageError(
            f"{group.path} cannot be had: {', '.join(idle) or 'no device'} of IOMMU group {number} is not bound to"
            f" {VFIO_DRIVER}",
            hint=f"bind every device of the group to {VFIO_DRIVER}",
        )
    return number, devices


class HostGroups:
    """The IOMMU groups of one container."""

    def __init__(self, machine: Vm, config: Configuration, directory: str, sandbox: str, container: str) -> None:
        self._machine = machine
        self._config = config
        self._directory = directory
        self._sandbox = sandbox
        self._container = container
        self._plugged: list[str] = []
        self._lent: list[tuple[str, int, int]] = []

    async def plug(self, groups: tuple[Group, ...]) -> list[wire.Device]:
        """Plug in all devices of the groups, and return what the agent makes of them. They are for `unplug` to undo.

        Raise what `resolve_group` and `Vm.plug_vfio` raise.
        """
        return [await self._plug_group(group) for group in groups]

    async def _plug_group(self, group: Group) -> wire.Device:
        try:
            number, devices = resolve_group(group, self._config)
            status = os.stat(find_node(number))
            self._lent.append((number, status.st_uid, status.st_gid))
            _lend(self._directory, self._sandbox, number)
            options = []
            for device in devices:
                name = f"vfio-{device.address}"
                slot = await self._machine.plug_vfio(VfioDevice(name, device.address))
                self._plugged.append(name)
                options.append(f"{device.address}={slot.path}")
        except KataError as error:
            error.message = f"container {self._container}: {error.message}"
            raise
        kind = "vfio-pci" if self._config.runtime.vfio_mode == "vfio" else "vfio-pci-gk"
        return wire.Device(id=number, type=kind, container_path=group.path, options=options)

    async def unplug(self) -> None:
        """Take all of them out, the last first. Raise DeadlineError when the guest does not let go."""
        while self._plugged:
            await self._machine.unplug(self._plugged[-1], timeout=_UNPLUG_TIMEOUT)
            self._plugged.pop()
        while self._lent:
            group, user, group_id = self._lent.pop()
            reclaim_group(group, derive_user_id(self._sandbox), user, group_id)
