"""Volumes in the host's share, each of which is a file system of its own in the guest.

The kernel mounts one when somebody goes there, in the mount namespace of whoever does, and two such mounts share no
inode: a lock, socket or mapping in one is not seen in the other. So the agent goes there before a container does, which
then has the agent's mount. Source: Documentation/filesystems/fuse.rst, fs/fuse/dir.c (fuse_dentry_automount).
"""

import os
from collections.abc import Iterable
from contextlib import suppress

from kata.sys import mount


class Submounts:
    """The volumes below `share`, by the containers that have them."""

    def __init__(self, share: str) -> None:
        self._share = share
        self._held: dict[str, list[str]] = {}

    def hold(self, container_id: str, sources: Iterable[str]) -> None:
        """Have those of these paths mounted that are directories of the share, until the last container lets go."""
        paths = self._held[container_id] = []
        for path in sources:
            if path.startswith(f"{self._share}/"):
                with suppress(OSError):  # no directory, or not there, which crun says better
                    os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                    paths.append(path)

    def release(self, container_id: str) -> None:
        """Unmount what a container had and no other has. Else virtiofsd would keep the host's file system busy."""
        paths = self._held.pop(container_id, [])
        others = {path for held in self._held.values() for path in held}
        for path in reversed(paths):
            if path not in others:
                mount.unmount(path, detach=True)
