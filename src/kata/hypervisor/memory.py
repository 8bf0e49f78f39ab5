"""A guest's memory as a file that others can map: made, written to disk without what is empty, and filled again."""

import mmap
import os
from collections.abc import Iterator

from kata.sys.sparsefile import list_blocks, list_data, write_fully

_PAGE = mmap.PAGESIZE
_EMPTY = bytes(_PAGE)


def make_memory(name: str, size: int) -> int:
    """Make an anonymous file of `size` bytes, none of them there yet, and return its descriptor. Raise OSError."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def copy_memory(source: int, target: int) -> int:
    """Copy what is there of one file into another of its size, and return how many bytes that was. Raise OSError.

    sendfile(2) was the quickest of four ways: it takes the source's pages as they are and copies once. Where an archive
    has filled the holes, what is all zeros is left out.
    """
    status = os.fstat(source)
    if status.st_blocks * 512 >= status.st_size:
        return _copy_blocks(source, target)
    copied = 0
    for start, end in list_data(source):
        os.lseek(target, start, os.SEEK_SET)
        at = start
        while at < end:
            count = os.sendfile(target, source, at, end - at)
            if not count:
                raise OSError(0, "the file became shorter while it was copied")
            at += count
        copied += end - start
    return copied


def _copy_blocks(source: int, target: int) -> int:
    copied = 0
    for place, block in list_blocks(source):
        write_fully(target, block, place)
        copied += len(block)
    return copied


def write_memory(source: int, target: int) -> int:
    """Copy the pages that hold anything but zeros, and return how many bytes those were. Raise OSError."""
    written = 0
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    with mmap.mmap(source, size, prot=mmap.PROT_READ) as memory:
        for start, end in list_data(source):
            for first, last in _list_filled(memory, start, end):
                at = first
                while at < last:
                    at += os.pwrite(target, memory[at : min(last, at + (1 << 20))], at)
                written += last - first
    return written


def _list_filled(memory: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield runs of pages that are not all zeros."""
    first = -1
    for at in range(start, end, _PAGE):
        if memory[at : at + _PAGE] == _EMPTY:
            if first >= 0:
                yield first, at
            first = -1
        elif first < 0:
            first = at
    if first >= 0:
        yield first, end
