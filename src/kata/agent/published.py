"""Volumes of which the guest has copies, so that inotify tells programs of new versions: driver `watchable-bind`.

The copies are on a tmpfs of their own. The host tells of a new version (`kata.agent.v1.Volumes`); until it has done so
once, as upstream's does not, the agent looks at the share every two seconds.
"""

import asyncio
import errno
import os
from contextlib import suppress

from kata.errors import HostError, NotFoundError
from kata.protocol.messages.agent import Storage
from kata.protocol.messages.types import Empty
from kata.protocol.messages.volumes import SERVICE, Version
from kata.sys import linux, mount
from kata.sys.filetree import Entry, publish_entries, read_entries, sign_tree
from kata.sys.tree import remove_tree
from kata.transport.ttrpc import Method, Services

_MOST_BYTES = 1 << 20
"""Content of a volume that is copied; a bigger one is shown as the share has it. Kubernetes' limit of one object."""

_MOST_MEMORY = 64 << 20
"""Bytes of all copies."""

_PAUSE = 2.0


class PublishedVolumes:
    """The copies by their mount points."""

    def __init__(self) -> None:
        self._looks: dict[str, asyncio.TimerHandle | None] = {}

    def add(self, storage: Storage) -> bool:
        """Make the copy at the storage's mount point, or show the source itself. Say whether that is a mount.

        Raise OSError.
        """
        point = storage.mount_point
        _mount_memory(os.path.dirname(point))
        if not os.path.isdir(storage.source):
            os.close(os.open(point, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
            mount.bind(storage.source, point)
            return True
        os.makedirs(point, exist_ok=True)
        signature = sign_tree(storage.source)
        try:
            publish_entries(point, read_entries(storage.source, size=_MOST_BYTES))
        except OSError as error:
            if error.errno not in (errno.EFBIG, errno.ENOSPC):
                raise
            publish_entries(point, ())
            mount.bind(storage.source, point)
            return True
        self._looks[point] = None
        self._plan_look(storage.source, point, signature)
        return False

    def remove(self, point: str) -> None:
        """Remove the copy at a mount point, if there is one."""
        if point in self._looks:
            self._end_looks(point)
            del self._looks[point]
            remove_tree(point)

    def publish(self, version: Version) -> None:
        """Make the copy what the host says. Raise NotFoundError, UsageError, HostError."""
        point = version.mount_point
        if point not in self._looks:
            raise NotFoundError(f"the guest has no copy of a volume at {point}")
        self._end_looks(point)
        try:
            publish_entries(
                point, [Entry(file.path, file.mode, file.uid, file.gid, bytes(file.data)) for file in version.files]
            )
        except OSError as error:
            raise HostError(f"the copy of a volume at {point} cannot be changed: {error}") from error

    def _end_looks(self, point: str) -> None:
        look = self._looks[point]
        self._looks[point] = None
        if look is not None:
            look.cancel()

    def _plan_look(self, source: str, point: str, signature: int) -> None:
        self._looks[point] = asyncio.get_running_loop().call_later(_PAUSE, self._look, source, point, signature)

    def _look(self, source: str, point: str, before: int) -> None:
        signature = before
        with suppress(OSError):  # as it was, then; the next look may find more
            signature = sign_tree(source)
            if signature != before:
                publish_entries(point, read_entries(source, size=_MOST_MEMORY))
        self._plan_look(source, point, signature)

    def list_services(self) -> Services:
        """Return the table of the service."""

        async def publish(version: Version) -> Empty:
            self.publish(version)
            return Empty()

        return {SERVICE: {"Publish": Method(Version, publish)}}


def _mount_memory(directory: str) -> None:
    """Have a file system in memory at a directory, which may be the host's and not to be written."""
    os.makedirs(directory, exist_ok=True)
    if not os.path.ismount(directory):
        linux.mount("tmpfs", directory, "tmpfs", linux.MS_NODEV | linux.MS_NOSUID, f"mode=755,size={_MOST_MEMORY}")
