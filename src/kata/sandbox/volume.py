"""Direct-assigned volumes of a container: their devices become disks, which the guest mounts."""

import os
from typing import Any, NamedTuple

from kata.errors import UsageError
from kata.protocol.messages.agent import FSGroup, Storage
from kata.sandbox.containerdisks import ContainerDisks
from kata.sandbox.guestpaths import GUEST_SHARE, GUEST_VOLUMES
from kata.sandbox.translation import Translation
from kata.storage.directvolume import ROOT, MountInfo, encode_path, is_direct_volume, read_mount_info

_GROUP, _POLICY = "fsGroup", "fsGroupChangePolicy"
_ON_ROOT_MISMATCH = 1


class DirectVolume(NamedTuple):
    """A volume by its path on the host, and how it is mounted at `place` in the guest."""

    path: str
    place: str
    info: MountInfo

    @property
    def readonly(self) -> bool:
        return "ro" in self.info.options


def take_direct_volumes(translation: Translation) -> tuple[Translation, tuple[DirectVolume, ...]]:
    """Take the direct-assigned volumes out of what a container shares. Raise UsageError, UnsupportedError."""
    volumes: dict[str, DirectVolume] = {}
    moved: dict[str, str] = {}
    shared = []
    for one in translation.shared:
        path = os.path.normpath(one.source)
        info = None if one.local else read_mount_info(path)
        if info is None:
            shared.append(one)
            continue
        volumes[path] = DirectVolume(path, f"{GUEST_VOLUMES}/{encode_path(path)}", info)
        moved[f"{GUEST_SHARE}/{one.name}"] = volumes[path].place
    if not volumes:
        return translation, ()
    for mount in translation.spec.Mounts:
        mount.source = moved.get(mount.source, mount.source)
    return translation._replace(shared=tuple(shared)), tuple(volumes.values())


def count_direct_volumes(document: dict[str, Any]) -> int:
    """Return how many disks a config.json needs for its direct-assigned volumes. Malformed ones are found later."""
    if not os.path.isdir(ROOT):
        return 0
    sources = {os.path.normpath(str(mount.get("source") or "")) for mount in document.get("mounts") or []}
    return sum(is_direct_volume(source) for source in sources)


async def plug_volume(volume: DirectVolume, disks: ContainerDisks) -> Storage:
    """Plug in a volume's disk and return what the agent is to mount. Raise what `ContainerDisks.plug_file` raises."""
    address = await disks.plug_file(volume.info.device, readonly=volume.readonly)
    return Storage(
        driver=address.driver,
        source=address.source,
        fstype=volume.info.fstype,
        options=list(volume.info.options),
        mount_point=volume.place,
        fs_group=_find_group(volume),
    )


def _find_group(volume: DirectVolume) -> FSGroup | None:
    """Return the group that Kubernetes' fsGroup gives the volume to."""
    text = volume.info.metadata.get(_GROUP, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"the {_GROUP} {text!r} of volume {volume.path} is no number")
    policy = volume.info.metadata.get(_POLICY, "")
    return FSGroup(group_id=int(text), group_change_policy=_ON_ROOT_MISMATCH if policy == "OnRootMismatch" else 0)
