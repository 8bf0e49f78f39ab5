"""Being told that the entries of a directory have changed, by a signal: F_NOTIFY of fcntl(2).

inotify would tell more, but stock kernels allow a user 128 instances of it (fs.inotify.max_user_instances), and each
pod's daemon would take one of root's.
"""

import fcntl
import os
import signal

SIGNAL = signal.SIGIO
"""What comes after a change. Have a handler before the first `watch_entries`: left alone it ends the process."""


def watch_writes(directory: str) -> int:
    """Have SIGNAL come once when a file in a directory is written or gets other attributes. Return a descriptor.

    Only once, until `watch_writes_again`: a log beside the file would send one with each line. Raise OSError.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        watch_writes_again(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def watch_writes_again(descriptor: int) -> None:
    """Have SIGNAL come once more. Raise OSError."""
    fcntl.fcntl(descriptor, fcntl.F_NOTIFY, fcntl.DN_MODIFY | fcntl.DN_ATTRIB)


def watch_entries(directory: str) -> int:
    """Have SIGNAL come whenever something is made in, removed from or renamed in a directory. Return a descriptor.

    Closing it ends that. Raise OSError, with EINVAL on a kernel that cannot do it (CONFIG_DNOTIFY).
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        what = fcntl.DN_CREATE | fcntl.DN_DELETE | fcntl.DN_RENAME | fcntl.DN_MULTISHOT
        fcntl.fcntl(descriptor, fcntl.F_NOTIFY, what)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
