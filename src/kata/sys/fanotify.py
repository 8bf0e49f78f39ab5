"""fanotify(7), as far as asking leave to open one directory: the opener waits until it is allowed."""

import ctypes
import os
import struct
from collections.abc import Iterator

from kata.errors import HostError

_SYS_INIT, _SYS_MARK = 300, 301
_CLASS_CONTENT, _CLOEXEC, _NONBLOCK = 0x4, 0x1, 0x2
_MARK_ADD = 0x1
_OPEN_PERM, _ONDIR = 0x10000, 0x40000000
_ALLOW = 1
_AT_FDCWD = -100
_EVENT = struct.Struct("=IBBHQii")
_RESPONSE = struct.Struct("=iI")
_READ = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def watch_opens(path: str) -> int:
    """Return a descriptor that becomes readable when somebody wants to open the directory `path`, who then waits.

    Closing it lets everybody through. Raise HostError where the kernel has no such permission events.
    """
    flags = _CLASS_CONTENT | _CLOEXEC | _NONBLOCK
    watcher = _libc.syscall(ctypes.c_long(_SYS_INIT), ctypes.c_uint(flags), ctypes.c_uint(os.O_RDONLY | os.O_CLOEXEC))
    if watcher < 0:
        raise HostError(f"fanotify_init: {os.strerror(ctypes.get_errno())}")
    mask = ctypes.c_uint64(_OPEN_PERM | _ONDIR)
    where = (ctypes.c_int(_AT_FDCWD), os.fsencode(path))
    if _libc.syscall(ctypes.c_long(_SYS_MARK), ctypes.c_int(watcher), ctypes.c_uint(_MARK_ADD), mask, *where) < 0:
        reason = os.strerror(ctypes.get_errno())
        os.close(watcher)
        raise HostError(f"fanotify_mark on {path}: {reason}")
    return int(watcher)


def read_openers(watcher: int) -> Iterator[tuple[int, int]]:
    """Yield (descriptor, pid) of each opener that waits now. Give each descriptor to `allow_open`."""
    try:
        data = os.read(watcher, _READ)
    except BlockingIOError:
        return
    at = 0
    while at + _EVENT.size <= len(data):
        length, _, _, _, _, descriptor, pid = _EVENT.unpack_from(data, at)
        at += length
        yield descriptor, pid


def allow_open(watcher: int, descriptor: int) -> None:
    """Let an opener go on."""
    os.write(watcher, _RESPONSE.pack(descriptor, _ALLOW))
    os.close(descriptor)
