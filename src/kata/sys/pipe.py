"""Pipes: how much is in one, and how much one can hold."""

import array
import fcntl
import termios

_LEAST = 4096


def count_readable(descriptor: int, limit: int) -> int:
    """Return how many bytes to ask of read(2) on a pipe, a terminal or a socket: what is there, but `limit` at most.

    A page where nothing is there or the kernel does not tell. Memory for megabytes that do not come is mapped and
    unmapped again at each read, which in an emulated guest takes longer than the read.

    Source: FIONREAD of ioctl_tty(2).
    """
    count = array.array("i", (0,))
    try:
        fcntl.ioctl(descriptor, termios.FIONREAD, count)
    except OSError:  # ENOTTY: a file
        return min(limit, _LEAST)
    return min(limit, max(count[0], _LEAST))


def enlarge_pipe(descriptor: int, size: int) -> None:
    """Let a pipe hold `size` bytes, where it is one and the kernel allows it. Source: F_SETPIPE_SZ of fcntl(2)."""
    try:
        if fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ) < size:
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, size)
    except OSError:  # EBADF: no pipe; EPERM: over /proc/sys/fs/pipe-max-size without CAP_SYS_RESOURCE
        return
