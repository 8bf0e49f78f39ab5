"""What is mounted below a directory of the host while a guest has it: shown in the share, and taken away, as it goes.

The share has copies of the host's mounts that are in no relation to them. Mounts that propagate into it would be
simpler, and wrong: virtiofsd keeps a descriptor of whatever the guest knows, and with it a mount that propagated from
the host cannot be unmounted there (umount(2), EBUSY).
"""

import asyncio
import os
import select
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from kata.errors import HostError
from kata.sys.beneath import open_without_links
from kata.sys.mount import attach_tree, clone_mount, list_mounts, unmount

MOST_MOUNTS = 256
"""Mounts of one directory that are shown; each costs a descriptor."""


class _Shown(NamedTuple):
    """A mount of the host, by its number in mountinfo, and the descriptor of its copy in the share."""

    number: int
    copy: int


class FollowedTree:
    """Keeps the mounts below one directory of the share like those of the host. Use in an event loop."""

    def __init__(self, watched: str, shown: str, *, readonly: bool) -> None:
        """Show what is mounted by now below `watched`, a slave of the host's directory, below `shown`, the share's.

        Raise HostError when changes cannot be watched.
        """
        self._watched = watched
        self._shown = shown
        self._readonly = readonly
        self._mounts: dict[str, _Shown] = {}
        self._watcher = MountWatcher(self.update)
        self.update()

    def update(self) -> None:
        """Take away what is not mounted any more, and show what is new."""
        there = {point.path.removeprefix(f"{self._watched}/"): point.mount_id for point in list_mounts(self._watched)}
        there.pop(self._watched)
        for name in sorted(self._mounts, reverse=True):
            if self._mounts[name].number != there.get(name):
                self._hide(name)
        for name, number in sorted(there.items()):  # a directory comes before those in it
            # The guest may have replaced a directory, or removed it: then there is nothing to show the mount at.
            if name not in self._mounts and len(self._mounts) < MOST_MOUNTS:
                with suppress(OSError):
                    self._mounts[name] = _Shown(number, self._show(name))

    def _show(self, name: str) -> int:
        """Return a descriptor of the new mount. Nothing that the guest puts in the way leads out of the directory."""
        opened: list[int] = []
        try:
            for base in (self._watched, self._shown):
                opened.append(os.open(base, os.O_PATH | os.O_CLOEXEC))
                opened.append(open_without_links(opened[-1], name, os.O_PATH))
            copy = clone_mount(opened[1])
            try:
                attach_tree(copy, opened[3], readonly=self._readonly)
            except OSError:
                os.close(copy)
                raise
            return copy
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _hide(self, name: str) -> None:
        copy = self._mounts.pop(name).copy
        with suppress(OSError):  # it went with what it was mounted on
            unmount(f"/proc/self/fd/{copy}", detach=True, follow=True)
        os.close(copy)

    def close(self) -> None:
        """Stop, and take all of them away."""
        self._watcher.close()
        for name in sorted(self._mounts, reverse=True):
            self._hide(name)


class MountWatcher:
    """Calls `changed` in the event loop after mounts of this process's namespace have changed.

    proc(5) says so with EPOLLPRI. The file is readable at all times, which an event loop would take for news, so
    another epoll that looks for nothing else stands between them. It need not be read: the file tells each change once,
    to whoever polls, and that was the loop.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        try:
            self._file = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
            self._epoll = select.epoll()
        except OSError as error:
            raise HostError(f"changes of the host's mounts cannot be seen: {error.strerror}") from error
        self._epoll.register(self._file, select.EPOLLPRI)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), changed)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        os.close(self._file)
