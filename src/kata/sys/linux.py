"""System calls that Python 3.11 does not have, by ctypes. Import cost: 1.5 ms, nearly all of it ctypes.

Every wrapper raises `OSError` with the errno of the call, as the functions of `os` do, so that a caller can tell
`EBUSY` from `EPERM`; whoever knows which object it was about turns it into a sentence of `kata.errors`.
"""

import ctypes
import os

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SCHED_CORE = 62
PR_SCHED_CORE_CREATE = 1
PIDTYPE_PGID = 2
"""A process group, as PR_SCHED_CORE takes it. Source: include/linux/pid_types.h, uapi/linux/prctl.h."""

TFD_TIMER_ABSTIME = 1
TFD_TIMER_CANCEL_ON_SET = 2

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 0x1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 0x1
FSCONFIG_CMD_CREATE = 6
FSMOUNT_CLOEXEC = 0x1
MOUNT_ATTR_RDONLY = 0x1

# The same numbers on every architecture: they came after the tables were unified (Linux 5.2 and 5.12). fsopen(2) and
# its like came with 5.2 too.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_MOUNT_SETATTR = 442

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _MountAttr(ctypes.Structure):
    """`struct mount_attr` of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _check(result: int, call: str, path: str | None = None) -> int:
    """Pass a result through, or raise what errno says, naming the call."""
    if result >= 0:
        return result
    number = ctypes.get_errno()
    raise OSError(number, f"{call}: {os.strerror(number)}", path)


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    arguments = (os.fsencode(source), os.fsencode(target), fstype.encode() or None)
    result = _libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() or None)
    _check(result, "mount", target)


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), "umount2", target)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2), which also moves the root of every process of the mount namespace that had the old one."""
    _check(_libc.pivot_root(os.fsencode(new), os.fsencode(old)), "pivot_root", new)


def unshare(flags: int) -> None:
    """unshare(2) for the calling thread."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(descriptor: int, kind: int = 0) -> None:
    """setns(2) for the calling thread; `kind` is a CLONE_NEW* constant, or 0 for whatever the descriptor is."""
    _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), "setns")


def prctl(option: int, *arguments: int) -> int:
    """prctl(2) with up to four arguments, and zeros for the others."""
    words = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    return _check(_libc.prctl(ctypes.c_int(option), *words), "prctl")


def adjtime(nanoseconds: int) -> None:
    """adjtime(3): let the clock gain, or lose where negative, 0.5 ms a second until it has gained so much."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    delta = (ctypes.c_long * 2)(seconds, rest // 1000)
    _check(_libc.adjtime(delta, None), "adjtime")


def timerfd_create(clock: int, flags: int) -> int:
    """timerfd_create(2). The caller closes the descriptor."""
    return _check(_libc.timerfd_create(ctypes.c_int(clock), ctypes.c_int(flags)), "timerfd_create")


def timerfd_settime(descriptor: int, flags: int, seconds: int) -> None:
    """timerfd_settime(2) of a timer that expires once."""
    value = (ctypes.c_long * 4)(0, 0, seconds, 0)
    _check(_libc.timerfd_settime(ctypes.c_int(descriptor), ctypes.c_int(flags), value, None), "timerfd_settime")


def open_tree(directory: int, path: str, flags: int) -> int:
    """open_tree(2): a descriptor of a mount, or of a detached copy of it. The caller closes it."""
    arguments = (ctypes.c_int(directory), os.fsencode(path), ctypes.c_uint(flags))
    return _check(_libc.syscall(ctypes.c_long(_SYS_OPEN_TREE), *arguments), "open_tree", path)


def move_mount(tree: int, place: int) -> None:
    """move_mount(2) of a detached tree onto what an O_PATH descriptor shows."""
    flags = ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
    result = _libc.syscall(ctypes.c_long(_SYS_MOVE_MOUNT), ctypes.c_int(tree), b"", ctypes.c_int(place), b"", flags)
    _check(result, "move_mount")


def fsopen(fstype: str) -> int:
    """fsopen(2): a descriptor of a file system to be. The caller closes it."""
    arguments = (fstype.encode(), ctypes.c_uint(FSOPEN_CLOEXEC))
    return _check(_libc.syscall(ctypes.c_long(_SYS_FSOPEN), *arguments), "fsopen", fstype)


def fsconfig_create(context: int) -> None:
    """fsconfig(2) that makes the file system."""
    arguments = (ctypes.c_int(context), ctypes.c_uint(FSCONFIG_CMD_CREATE), None, None, ctypes.c_int(0))
    _check(_libc.syscall(ctypes.c_long(_SYS_FSCONFIG), *arguments), "fsconfig")


def fsmount(context: int, attributes: int = 0) -> int:
    """fsmount(2): a descriptor of the root of a mount that is nowhere attached. The caller closes it."""
    arguments = (ctypes.c_int(context), ctypes.c_uint(FSMOUNT_CLOEXEC), ctypes.c_uint(attributes))
    return _check(_libc.syscall(ctypes.c_long(_SYS_FSMOUNT), *arguments), "fsmount")


def mount_setattr(tree: int, *, enable: int = 0, propagation: int = 0, recursive: bool = True) -> None:
    """mount_setattr(2) on a descriptor of a mount: attributes to set (MOUNT_ATTR_*), and a propagation type (MS_*)."""
    attributes = _MountAttr(enable, 0, propagation, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    where = (ctypes.c_int(tree), b"", ctypes.c_uint(flags))
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    result = _libc.syscall(ctypes.c_long(_SYS_MOUNT_SETATTR), *where, ctypes.byref(attributes), size)
    _check(result, "mount_setattr")
