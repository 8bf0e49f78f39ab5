"""Disk emptyDirs of Kubernetes as disks of the VM (`emptydir_mode = "block-plain"`).

The file system is in a sparse file in the kubelet's own directory: so the kubelet counts what it takes of the host's
disk against `sizeLimit`, and removes it with the pod. It is as big as the directory's file system, or its quota.
"""

import os
import stat
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from kata.errors import HostError, UnsupportedError
from kata.protocol.messages.agent import Storage
from kata.sandbox.containerdisks import ContainerDisks
from kata.sandbox.guestpaths import GUEST_SCRATCH, GUEST_SHARE
from kata.sandbox.kubelet import describe_part, find_volume_of_part, is_scratch, list_owner
from kata.sandbox.translation import Shared, Translation
from kata.sys.digest import digest_bytes
from kata.sys.mount import MountPoint
from kata.sys.superblock import find_filesystem

_IMAGE = "disk.img"
"""Upstream's name of the file."""

_STEP = 1 << 20
_OPTIONS = ("rw", "discard", "noatime", "noinit_itable")
"""What is removed is given back to the host's disk at once, and nothing is taken for tables that are all zeros: the
kernel would write those in the background, 0.08 % of the host's file system, and the kubelet would count them.
"""

Visit = Callable[[Callable[[], Any]], Any]
"""Does something where the host's files are as the engine sees them."""


class ScratchVolume(NamedTuple):
    """An emptyDir by its path on the host, and where the guest has it. `making` is for one without a file system."""

    path: str
    place: str
    making: tuple[str, ...] = ()

    @property
    def image(self) -> str:
        return f"{self.path}/{_IMAGE}"


def take_scratch_volumes(
    translation: Translation, visit: Visit, list_points: Callable[[], Sequence[MountPoint]]
) -> tuple[Translation, tuple[ScratchVolume, ...]]:
    """Take the disk emptyDirs out of what a container shares, and have a file for the disk of each.

    `list_points` tells what is mounted where `visit` looks.
    Raise HostError for one whose file cannot be made, UnsupportedError for a `subPath` that is nowhere in its volume.
    """
    volumes: dict[str, ScratchVolume] = {}
    storages = list(translation.storages)
    moved: dict[str, str] = {}
    shared = []
    for one in translation.shared:
        path = _find_scratch(one)
        if not path:
            shared.append(one)
            continue
        if path not in volumes:
            place = f"{GUEST_SCRATCH}/{digest_bytes(path.encode(errors='surrogateescape')).hex()[:16]}"
            volumes[path] = ScratchVolume(path, place, visit(partial(_make_image, path)))
        place = volumes[path].place
        source = os.path.normpath(one.source)
        if source != path:
            storages.append(visit(partial(_find_part, path, place, source, list_points())))
            place = storages[-1].mount_point
        moved[f"{GUEST_SHARE}/{one.name}"] = place
    for mount in translation.spec.Mounts:
        mount.source = moved.get(mount.source, mount.source)
    return translation._replace(shared=tuple(shared), storages=tuple(storages)), tuple(volumes.values())


def count_scratch_volumes(document: dict[str, Any]) -> int:
    """Return how many disks a config.json needs for its emptyDirs at most, those in memory included."""
    sources = {os.path.normpath(str(mount.get("source") or "")) for mount in document.get("mounts") or []}
    return sum(is_scratch(source) for source in sources)


async def plug_scratch(volume: ScratchVolume, disks: ContainerDisks) -> Storage:
    """Plug in a volume's disk and return what the agent is to mount. Raise what `ContainerDisks.plug_file` raises."""
    address = await disks.plug_file(volume.image, readonly=False, discard=True)
    return Storage(
        driver=address.driver,
        source=address.source,
        fstype="ext4",
        options=list(_OPTIONS),
        driver_options=list(volume.making),
        mount_point=volume.place,
    )


def _find_scratch(shared: Shared) -> str:
    """Return the emptyDir that something shared is, or is a `subPath` of; empty for anything else."""
    if shared.local:
        return ""
    path = os.path.normpath(shared.source)
    return path if is_scratch(path) else find_volume_of_part(path)


def _make_image(path: str) -> tuple[str, ...]:
    """Have the file of an emptyDir. Return what the agent is told where it has to make the file system."""
    name = f"{path}/{_IMAGE}"
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise HostError(f"{name} is no file, so the emptyDir cannot be a disk")
            if not status.st_size:
                sizes = os.statvfs(path)
                os.truncate(descriptor, sizes.f_blocks * sizes.f_frsize // _STEP * _STEP)
            # The guest wrote what is in it: the host looks at its magic number and mounts nothing.
            is_made = find_filesystem(descriptor) != ""
        finally:
            os.close(descriptor)
        return () if is_made else ("create_filesystem", *list_owner(os.stat(path)))
    except OSError as error:
        raise HostError(f"the emptyDir {path} cannot be a disk: {name}: {error.strerror}") from error


def _find_part(volume: str, place: str, part: str, points: Sequence[MountPoint]) -> Storage:
    """Return a path in a volume, which the kubelet has mounted on the host at `part`."""
    root = _find_root(volume, part, points)
    if root is None:
        raise UnsupportedError(
            f"{part} is nowhere in the emptyDir {volume}",
            hint='set emptydir_mode to "shared-fs" where emptyDirs have a subPath',
        )
    return describe_part(place, root, os.stat(part))


def _find_root(volume: str, part: str, points: Sequence[MountPoint]) -> str | None:
    """Return where in a volume the mount `part` is from."""
    own = next((point for point in reversed(points) if point.path == part), None)
    above = [point for point in points if f"{volume}/".startswith(f"{point.path.rstrip('/')}/")]
    if own is None or not above:
        return None
    owner = max(above, key=lambda point: len(point.path))
    base = os.path.normpath(f"{owner.root}/{volume.removeprefix(owner.path)}")
    if own.device != owner.device or not f"{own.root}/".startswith(f"{base}/"):
        return None
    return own.root.removeprefix(base)
