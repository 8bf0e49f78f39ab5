"""Mounted file systems that grow with their block devices: ext4 and xfs do, by an ioctl.

Sources: fs/ext4/ext4.h and fs/xfs/libxfs/xfs_fs.h of the kernel.
"""

import fcntl
import os
import struct

from kata.agent.uevent import Uevents
from kata.errors import HostError, NotFoundError, UnsupportedError
from kata.sys import mount

_EXT4_RESIZE = 0x40086610
_XFS_GEOMETRY, _XFS_GROW = 0x80705864, 0x4010586E
_GEOMETRY = struct.Struct("8I 80x")
"""The beginning of `struct xfs_fsop_geom_v1`: the size of a block comes first, the share of inodes (imaxpct) last."""

_SECTOR = 512
_APPEAR_WITHIN = 10.0  # seconds


async def resize_volume(path: str, size: int, uevents: Uevents) -> None:
    """Let the file system that is mounted at a path fill its device up to `size` bytes.

    Raise NotFoundError without one, UnsupportedError for a kind that cannot grow, DeadlineError while the device is
    smaller, HostError with what the kernel said.
    """
    point = next((point for point in reversed(mount.list_mounts(path)) if point.path == path), None)
    if point is None:
        raise NotFoundError(f"no volume is mounted at {path} in the guest")
    grow = {"ext4": _grow_ext4, "xfs": _grow_xfs}.get(point.fstype)
    if grow is None:
        raise UnsupportedError(f"the volume at {path} is of type {point.fstype}, which cannot grow while it is mounted")
    device = f"/sys/dev/block/{point.device}"
    _rescan(device)
    what = f"the size of {size} bytes of the volume at {path}"
    await uevents.wait_for(lambda: _measure(device) >= size or None, what, timeout=_APPEAR_WITHIN)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        grow(descriptor, size)
    except OSError as error:
        raise HostError(f"the volume at {path} cannot grow to {size} bytes: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _rescan(device: str) -> None:
    """Have the kernel read the size of a SCSI disk again; that of others it learns by itself."""
    path = f"{device}/device/rescan"
    if os.path.exists(path):
        with open(path, "w", encoding="ascii") as file:
            file.write("1")


def _measure(device: str) -> int:
    with open(f"{device}/size", encoding="ascii") as file:
        return int(file.read()) * _SECTOR


def _grow_ext4(descriptor: int, size: int) -> None:
    fcntl.ioctl(descriptor, _EXT4_RESIZE, struct.pack("Q", size // os.fstatvfs(descriptor).f_bsize))


def _grow_xfs(descriptor: int, size: int) -> None:
    answer = fcntl.ioctl(descriptor, _XFS_GEOMETRY, bytes(_GEOMETRY.size))
    block, *_, percent = _GEOMETRY.unpack(answer)
    fcntl.ioctl(descriptor, _XFS_GROW, struct.pack("QI4x", size // block, percent))
