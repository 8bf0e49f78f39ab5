"""IOMMU groups among the devices of a config.json. Source: Documentation/driver-api/vfio.rst of the kernel."""

from typing import Any, NamedTuple

_FOLDER = "/dev/vfio/"


class Group(NamedTuple):
    """An IOMMU group that a container is to have at `path`, by the numbers of the host's node."""

    path: str
    major: int
    minor: int


def find_groups(document: dict[str, Any]) -> tuple[Group, ...]:
    """Return the IOMMU groups that a config.json gives to its container, each by a rule for it alone.

    Those that are only listed are none of them: engines list all of the host's for a privileged container.
    """
    linux = document.get("linux") or {}
    rules = {
        (rule.get("major"), rule.get("minor"))
        for rule in (linux.get("resources") or {}).get("devices") or []
        if rule.get("allow") and rule.get("type") == "c"
    }
    return tuple(
        Group(str(device.get("path")), device["major"], device["minor"])
        for device in linux.get("devices") or []
        if is_group_path(str(device.get("path"))) and (device.get("major"), device.get("minor")) in rules
    )


def is_group_path(path: str) -> bool:
    """Say whether it is where programs look for an IOMMU group, as /dev/vfio/vfio is not."""
    return path.startswith(_FOLDER) and path.removeprefix(_FOLDER).isdigit()


def is_vfio_path(path: str) -> bool:
    return path.startswith(_FOLDER)
