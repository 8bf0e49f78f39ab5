"""Removing directories without reaching through a mount into somebody's data."""

import errno
import os
import stat
from contextlib import suppress

from kata.sys.mount import list_mounts


def remove_tree(path: str) -> None:
    """Remove a directory and all below it that is on the same mount. A missing one is no error.

    What is mounted below stays, and so do the directories above it: then OSError is raised.
    """
    real = os.path.realpath(path)
    # The device number does not tell a bind of the same file system from a plain directory; the table of mounts does.
    mounted = {point.path for point in list_mounts(real)}
    if real in mounted:
        raise OSError(errno.EBUSY, "something is mounted there", path)
    with suppress(FileNotFoundError):
        _remove(real, mounted)


def _remove(path: str, mounted: set[str]) -> None:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.path in mounted:
                continue
            if stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode):
                _remove_below(entry.path, mounted)
            else:
                os.unlink(entry.path)
    os.rmdir(path)


def _remove_below(path: str, mounted: set[str]) -> None:
    """Remove a directory unless something is mounted in it, so that its siblings go all the same."""
    try:
        _remove(path, mounted)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
