"""Sparse files: where their data is, copies without what is empty, and checksums that do not depend on holes."""

import fcntl
import os
import stat
import zlib
from collections.abc import Iterator

_BLOCK = 1 << 16
_EMPTY = bytes(_BLOCK)
_FICLONE = 0x40049409  # linux/fs.h
_COUNT = 8


def list_data(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a file that are there, as start and end: SEEK_DATA and SEEK_HOLE of lseek(2)."""
    end = 0
    while True:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:  # ENXIO: no more data
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def list_blocks(descriptor: int) -> Iterator[tuple[int, bytes]]:
    """Yield the blocks of 64 KiB of a file or block device that hold anything but zeros, with their places."""
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        size = os.fstat(descriptor).st_size
        parts: Iterator[tuple[int, int]] = list_data(descriptor)
    else:  # the kernel tells no holes of a block device
        size = os.lseek(descriptor, 0, os.SEEK_END)
        parts = iter([(0, size)])
    at = 0
    for start, end in parts:
        for place in range(max(at, start - start % _BLOCK), end, _BLOCK):
            block = os.pread(descriptor, min(_BLOCK, size - place), place)
            if block != _EMPTY[: len(block)]:
                yield place, block
            at = place + _BLOCK


def sum_blocks(descriptor: int) -> str:
    """Return a checksum (CRC-32) of what a file or block device holds: it tells damage, not malice."""
    total = 0
    for place, block in list_blocks(descriptor):
        total = zlib.crc32(block, zlib.crc32(place.to_bytes(_COUNT), total))
    return f"{total:08x}"


def copy_blocks(source: int, target: int) -> None:
    """Make an empty regular file a copy of a file or block device, by reference where the file system can.

    Raise OSError.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        os.ftruncate(target, os.lseek(source, 0, os.SEEK_END))
        for place, block in list_blocks(source):
            write_fully(target, block, place)


def restore_blocks(source: int, target: int) -> None:
    """Make a file or block device hold what `source` holds, and write only what differs. Raise OSError."""
    if stat.S_ISREG(os.fstat(target).st_mode):
        os.ftruncate(target, os.fstat(source).st_size)
    at, size = 0, os.fstat(source).st_size
    for place, block in list_blocks(source):
        _clear(target, at, place)
        if os.pread(target, len(block), place) != block:
            write_fully(target, block, place)
        at = place + len(block)
    _clear(target, at, size)
    os.fsync(target)


def _clear(target: int, start: int, end: int) -> None:
    """Have zeros in a part, which costs writing only what is none."""
    for place in range(start, end, _BLOCK):
        block = os.pread(target, min(_BLOCK, end - place), place)
        if block != _EMPTY[: len(block)]:
            write_fully(target, _EMPTY[: len(block)], place)


def write_fully(target: int, data: bytes, place: int) -> None:
    """Write all of it. Raise OSError."""
    view = memoryview(data)
    while view:
        count = os.pwrite(target, view, place)
        view, place = view[count:], place + count
