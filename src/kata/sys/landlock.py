"""Landlock: whether this kernel lets a process give up files. Source: Documentation/userspace-api/landlock.rst."""

import ctypes
import os

_CREATE_RULESET = 444
_VERSION = 1


def find_landlock_version() -> int:
    """The version of the kernel's interface; 0 where it has none, or where it is turned off."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION)))
    return max(0, version) if os.uname().machine in ("x86_64", "aarch64") else 0
