"""Disks of VMs that no other VM or program may have: one writer, or any number of readers.

A claim is a lock of an open file description (fcntl(2), F_OFD_SETLK) on all of the file or of the device's node; and a
block device that is to be written is opened with O_EXCL (open(2)), which what is mounted, and other block devices made
of it, exclude too. Both end when the descriptor is closed, however its process ends. They do not depend on the VMM,
which opens the disk by itself: the locks of QEMU and Cloud Hypervisor would be of each of them alone.
"""

import errno
import fcntl
import os
import stat
import struct

from kata.errors import HostError, StateError

_WHOLE_FILE = struct.Struct("hhqqi4x")
"""`struct flock`: type, whence, start, length (0: to the end, wherever that is), pid (0 with F_OFD_SETLK)."""


def claim_disk(descriptor: int, *, readonly: bool) -> int:
    """Claim the file or block device that a descriptor has open. Close the descriptor returned to give it up.

    Raise StateError where somebody has it, HostError where it cannot be claimed at all.
    """
    is_device = stat.S_ISBLK(os.fstat(descriptor).st_mode)
    flags = os.O_RDONLY if readonly else os.O_RDWR | (os.O_EXCL if is_device else 0)
    try:
        claim = os.open(f"/proc/self/fd/{descriptor}", flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise HostError(f"it cannot be opened: {error.strerror}") from error
        raise StateError(
            "it is mounted on the host, or a disk of another VM, or part of another device",
            hint="what a guest writes to is for one VM, and nothing else",
        ) from error
    kind = fcntl.F_RDLCK if readonly else fcntl.F_WRLCK
    try:
        fcntl.fcntl(claim, fcntl.F_OFD_SETLK, _WHOLE_FILE.pack(kind, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        os.close(claim)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise HostError(f"it cannot be locked: {error.strerror}") from error
        others = "writes to it" if readonly else "has it"
        raise StateError(
            f"another VM, or a program of the host, {others}",
            hint="a disk that is written is for one VM; read-only several can have it",
        ) from error
    return claim
