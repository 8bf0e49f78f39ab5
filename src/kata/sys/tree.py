"""Removing directories without reaching through a mount into somebody's data."""

import os
import stat
from contextlib import suppress


def remove_tree(path: str) -> None:
    """Remove a directory and all below it that is on the same file system. A missing one is no error.

    What is mounted below stays, and so do the directories above it: then OSError is raised.
    """
    with suppress(FileNotFoundError):
        _remove(path, os.lstat(path).st_dev)


def _remove(path: str, device: int) -> None:
    with os.scandir(path) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if status.st_dev != device:
                continue
            if stat.S_ISDIR(status.st_mode):
                _remove(entry.path, device)
            else:
                os.unlink(entry.path)
    os.rmdir(path)
