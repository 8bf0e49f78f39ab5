"""What the kubelet's directories tell of a volume, where the guest is to have one of its own instead of the share's.

    <root>/pods/<uid>/volumes/kubernetes.io~empty-dir/<name>    tmpfs or hugetlbfs where the medium is memory
    <root>/pods/<uid>/volumes/kubernetes.io~configmap/<name>    the same for secret, projected, downward-api
    <root>/pods/<uid>/volume-subpaths/<name>/<container>/<n>    a path in a volume (`subPath`)

Source: Kubernetes, pkg/volume/emptydir, pkg/volume/util/atomic_writer.go and subpath/subpath_linux.go.
"""

import os
from collections.abc import Callable, Iterable, Sequence

from kata.errors import UsageError
from kata.protocol.messages import oci
from kata.protocol.messages.agent import Storage
from kata.sandbox.guestpaths import GUEST_EPHEMERAL, GUEST_PARTS, GUEST_SHARE, PUBLISHED
from kata.sandbox.publisher import Place
from kata.sys.digest import digest_bytes
from kata.sys.mount import MountPoint

PUBLISHED_DRIVER = "watchable-bind"
"""Upstream's name of the agent's storage driver."""

_EMPTY_DIR = "kubernetes.io~empty-dir"
_PARTS = "volume-subpaths"
_PART_DEPTH = 2  # of the container, and of the number of its mount
_PUBLISHED_KINDS = {f"kubernetes.io~{kind}" for kind in ("configmap", "secret", "projected", "downward-api")}
_HUGE_PAGES = "/dev/hugepages"
_UNITS = ((30, "GB"), (20, "MB"), (10, "KB"))


def _find_kind(source: str) -> str:
    return os.path.basename(os.path.dirname(os.path.normpath(source)))


def is_scratch(source: str) -> bool:
    """Say whether a path of the host is an emptyDir: the pod's own to write into."""
    return _find_kind(source) == _EMPTY_DIR


def find_memory_volume(
    container: str,
    source: str,
    root: str,
    limits: Iterable[oci.LinuxHugepageLimit],
    list_points: Callable[[], Sequence[MountPoint]],
) -> tuple[Storage, ...]:
    """Return the guest's memory that stands for a volume of the host's memory: tmpfs, huge pages; nothing for others.

    The last of the storages is to be shown; a path in a volume has that of the volume before it. `root` is where the
    host's files are to be looked at, `limits` those of the container. Raise UsageError for a volume of huge pages
    without a limit, as the guest's kernel sets none aside then.
    """
    path = os.path.normpath(source)
    volume = find_volume_of_part(path)
    if not volume and not is_scratch(path) and path != _HUGE_PAGES:
        return ()
    points = {point.path: point for point in list_points()}
    point = points.get(path)
    if point is None or point.fstype not in ("tmpfs", "hugetlbfs"):
        return ()
    if not volume:
        return (_describe_memory(container, path, root, point.fstype, limits),)
    if volume not in points or points[volume].device != point.device:
        return ()
    memory = _describe_memory(container, volume, root, point.fstype, limits)
    return memory, describe_part(memory.mount_point, point.root, os.stat(root + path))


def find_volume_of_part(path: str) -> str:
    """Return the emptyDir that a path is a `subPath` of, as the kubelet mounts it: empty for any other path."""
    pod, found, rest = path.rpartition(f"/{_PARTS}/")
    name, *place = rest.split("/")
    return f"{pod}/volumes/{_EMPTY_DIR}/{name}" if found and len(place) == _PART_DEPTH else ""


def _describe_memory(
    container: str, path: str, root: str, fstype: str, limits: Iterable[oci.LinuxHugepageLimit]
) -> Storage:
    sizes = os.statvfs(root + path)
    options = list_owner(os.stat(root + path))
    if fstype == "hugetlbfs":
        page = _name_page(sizes.f_bsize)
        if not any(limit.Limit for limit in limits if limit.Pagesize == page):
            raise UsageError(
                f"container {container} has no limit of huge pages of {page}, of which its volume {path} is",
                hint=f"in Kubernetes: limits of hugepages-{page.removesuffix('B')}i",
            )
        options.append(f"pagesize={sizes.f_bsize}")
    elif sizes.f_blocks:
        options.append(f"size={sizes.f_blocks * sizes.f_frsize}")
    return Storage(
        driver="ephemeral",
        source=fstype,
        fstype=fstype,
        options=options,
        mount_point=f"{GUEST_EPHEMERAL}/{os.path.basename(path)}",
    )


def describe_part(volume: str, path: str, status: os.stat_result) -> Storage:
    """Return a path in the guest's volume at a mount point. This project's agent alone has the driver."""
    return Storage(
        driver="beneath",
        source=volume,
        fstype="bind",
        options=[f"path={path}", *list_owner(status)],
        mount_point=f"{GUEST_PARTS}/{digest_bytes((volume + path).encode()).hex()[:16]}",
    )


def list_owner(status: os.stat_result) -> list[str]:
    """Return mode, user and group of a directory, as options of the agent's storages."""
    return [f"mode={status.st_mode & 0o7777:o}", f"uid={status.st_uid}", f"gid={status.st_gid}"]


def _name_page(size: int) -> str:
    """Name a size of pages as `hugepageLimits` does: 2MB. Source: config-linux.md of the OCI runtime specification."""
    shift, unit = next(unit for unit in _UNITS if size >> unit[0])
    return f"{size >> shift}{unit}"


def find_published_volume(source: str, options: Iterable[str], name: str) -> tuple[Storage, ...]:
    """Return the guest's copy of a read-only volume that the kubelet changes while it is used; nothing for others.

    inotify tells of changes that the guest's own kernel makes, so the guest has a copy, which is changed as the volume
    is. `name` is that of the volume in the share.
    """
    if _find_kind(source) not in _PUBLISHED_KINDS or "ro" not in options:
        return ()
    storage = Storage(
        driver=PUBLISHED_DRIVER,
        source=f"{GUEST_SHARE}/{name}",
        fstype="bind",
        options=["bind", "ro"],
        mount_point=f"{GUEST_SHARE}/{PUBLISHED}/{name}",
    )
    return (storage,)


def list_published(storages: Iterable[Storage], share: str) -> list[Place]:
    """Return where the host has the volumes among these storages of which the guest has copies: in the share."""
    return [
        Place(share + storage.source.removeprefix(GUEST_SHARE), storage.mount_point)
        for storage in storages
        if storage.driver == PUBLISHED_DRIVER
    ]
