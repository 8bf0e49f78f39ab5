"""The host's block devices that a container was given: plugged into the VM for it, and taken out after it."""

from typing import Any, NamedTuple

from kata.errors import UsageError
from kata.hypervisor.driver import Vm
from kata.hypervisor.spec import BlockDevice, DiskAddress
from kata.protocol.messages import agent as wire
from kata.sys.file import read_text

_UNPLUG_TIMEOUT = 30.0  # seconds; an emulated guest under load takes some


class Disk(NamedTuple):
    """A block device of the host by its numbers, and the path at which the container is to have it."""

    path: str
    major: int
    minor: int
    readonly: bool


def find_disks(document: dict[str, Any]) -> tuple[Disk, ...]:
    """Return the block devices that a config.json gives to its container, each by a rule for it alone.

    Those that are only listed are none of them: engines list all of the host's for a privileged container, the host's
    own disks among them.
    """
    linux = document.get("linux") or {}
    rules = {
        (rule.get("major"), rule.get("minor")): str(rule.get("access") or "rwm")
        for rule in (linux.get("resources") or {}).get("devices") or []
        if rule.get("allow") and rule.get("type") == "b"
    }
    return tuple(
        Disk(
            str(device.get("path")),
            device["major"],
            device["minor"],
            "w" not in rules[device["major"], device["minor"]],
        )
        for device in linux.get("devices") or []
        if device.get("type") == "b" and (device.get("major"), device.get("minor")) in rules
    )


class Disks:
    """What is plugged in for one container."""

    def __init__(self, machine: Vm, container: str) -> None:
        self._machine = machine
        self._container = container
        self._plugged: list[str] = []

    async def plug(self, disks: tuple[Disk, ...]) -> list[wire.Device]:
        """Plug disks in, and return how the agent finds each. What was plugged in before a failure is for `unplug`.

        Raise UsageError for a device that the host has not, ConfigError for one that cannot be opened, StateError
        without a free port.
        """
        devices = []
        for number, disk in enumerate(disks):
            name = f"{self._container}-disk{number}"
            block = BlockDevice(name, _find_node(self._container, disk), readonly=disk.readonly)
            address = await self._machine.plug_block(block)
            self._plugged.append(name)
            devices.append(_describe_disk(address, disk.path))
        return devices

    async def unplug(self) -> None:
        """Take all of them out, the last first. Raise DeadlineError when the guest does not let go."""
        while self._plugged:
            await self._machine.unplug(self._plugged[-1], timeout=_UNPLUG_TIMEOUT)
            self._plugged.pop()


def _describe_disk(address: DiskAddress, path: str) -> wire.Device:
    """The agent takes a node of the guest's by another name than an address."""
    if address.driver == "mmioblk":
        return wire.Device(vm_path=address.source, type=address.driver, container_path=path)
    return wire.Device(id=address.source, type=address.driver, container_path=path)


def _find_node(container: str, disk: Disk) -> str:
    """Return the host's node of a device: the kernel tells its name below /dev in sysfs (kobject uevent, DEVNAME)."""
    lines = read_text(f"/sys/dev/block/{disk.major}:{disk.minor}/uevent").splitlines()
    name = next((line.removeprefix("DEVNAME=") for line in lines if line.startswith("DEVNAME=")), "")
    if not name:
        raise UsageError(
            f"container {container}: the host has no block device {disk.major}:{disk.minor} for {disk.path}"
        )
    return f"/dev/{name}"
