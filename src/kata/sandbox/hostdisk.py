"""Block devices of the host that a config.json gives to its container."""

from typing import Any, NamedTuple

from kata.errors import UsageError
from kata.sys.file import read_text


class HostDisk(NamedTuple):
    """A block device of the host by its numbers, and the path at which the container is to have it."""

    path: str
    major: int
    minor: int
    readonly: bool


def find_disks(document: dict[str, Any]) -> tuple[HostDisk, ...]:
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
        HostDisk(
            str(device.get("path")),
            device["major"],
            device["minor"],
            "w" not in rules[device["major"], device["minor"]],
        )
        for device in linux.get("devices") or []
        if device.get("type") == "b" and (device.get("major"), device.get("minor")) in rules
    )


def find_node(container: str, disk: HostDisk) -> str:
    """Return the host's node of a device: the kernel tells its name below /dev in sysfs (kobject uevent, DEVNAME)."""
    lines = read_text(f"/sys/dev/block/{disk.major}:{disk.minor}/uevent").splitlines()
    name = next((line.removeprefix("DEVNAME=") for line in lines if line.startswith("DEVNAME=")), "")
    if not name:
        raise UsageError(
            f"container {container}: the host has no block device {disk.major}:{disk.minor} for {disk.path}"
        )
    return f"/dev/{name}"
