"""Paths that cannot leave a directory: openat2(2) with RESOLVE_BENEATH."""

import ctypes
import os

_SYS_OPENAT2 = 437  # the same on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE_IN_ROOT = 0x10


class _OpenHow(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_beneath(directory: int, path: str, flags: int, mode: int = 0) -> int:
    """Open a relative path below a directory descriptor. A path that leads outside raises OSError(EXDEV).

    Neither `..` nor a symbolic link can lead outside, whoever changes the tree meanwhile. The caller closes the result.
    """
    return _openat2(directory, path, flags, mode, _RESOLVE_BENEATH)


def open_without_links(directory: int, path: str, flags: int) -> int:
    """Open a relative path below a directory descriptor. One with a symbolic link in it raises OSError(ELOOP)."""
    return _openat2(directory, path, flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)


def open_in_root(directory: int, path: str, flags: int, mode: int = 0) -> int:
    """Open a path as a process would see it whose root is the directory: absolute links stay inside."""
    return _openat2(directory, path, flags, mode, _RESOLVE_IN_ROOT)


def _openat2(directory: int, path: str, flags: int, mode: int, resolve: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve | _RESOLVE_NO_MAGICLINKS)
    place = (ctypes.c_int(directory), os.fsencode(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
    descriptor = int(libc.syscall(ctypes.c_long(_SYS_OPENAT2), *place))
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"openat2: {os.strerror(number)}", path)
    return descriptor
