"""How full a volume is, and stale caches of the host's share."""

import contextlib
import os

from kata.errors import NotFoundError
from kata.protocol.messages.csi import Unit, VolumeCondition, VolumeStatsResponse, VolumeUsage
from kata.sys import mount


def measure_volume(path: str) -> VolumeStatsResponse:
    """Bytes and inodes of the file system at a path of the guest. Raise NotFoundError."""
    try:
        status = os.statvfs(path)
    except OSError as error:
        raise NotFoundError(f"there is no volume at {path} in the guest: {error.strerror}") from error
    size = status.f_frsize
    usage = [
        _describe(status.f_blocks * size, status.f_bfree * size, Unit.BYTES),
        _describe(status.f_files, status.f_ffree, Unit.INODES),
    ]
    return VolumeStatsResponse(usage=usage, volume_condition=VolumeCondition(abnormal=False, message="OK"))


def _describe(total: int, available: int, unit: Unit) -> VolumeUsage:
    return VolumeUsage(total=total, available=available, used=total - available, unit=int(unit))


def touch_mounts(share: str) -> None:
    """Look at every mount in the share, so that the host's virtiofsd lets go of files that are gone."""
    for point in mount.list_mounts(share):
        with contextlib.suppress(OSError):
            os.stat(point.path)
