"""Volumes that the kubelet changes while they are used: each version is handed to the guest, which keeps a copy."""

import asyncio
import os
from collections.abc import Iterable
from typing import NamedTuple

from kata.errors import Code, GuestError, KataError
from kata.observe.log import Log
from kata.protocol.messages.volumes import File, Version
from kata.sandbox.guest import Guest
from kata.sys.dnotify import SIGNAL, watch_entries
from kata.sys.filetree import Entry, read_entries

_MOST_BYTES = 3 << 20
"""Content of a version: it travels in one message, and those have 4 MiB at most."""

_SETTLE = 0.1
"""Seconds from the first sign of a change until it is looked at: the kubelet makes each in a dozen steps."""


class Place(NamedTuple):
    """A directory of the host, and where the guest has the copy."""

    directory: str
    mount_point: str


class _Volume:
    __slots__ = ("place", "published", "watch")

    def __init__(self, place: Place, watch: int) -> None:
        self.place = place
        self.watch = watch
        self.published: int | None = None


class Publisher:
    """Follows the volumes of a sandbox's containers. One a process, in its main thread: signals are the process's."""

    def __init__(self, guest: Guest, log: Log) -> None:
        self._guest = guest
        self._log = log
        self._volumes: dict[str, list[_Volume]] = {}
        self._pending: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def follow(self, container: str, places: Iterable[Place]) -> None:
        """Publish these volumes of a container that the guest has by now, and all that becomes of them."""
        loop = asyncio.get_running_loop()
        for place in places:
            loop.add_signal_handler(SIGNAL, self._note)
            try:
                volume = _Volume(place, watch_entries(place.directory))
            except OSError as error:  # the agent goes on looking by itself
                self._log.write("warning", f"changes of {place.directory} are not heard of", error=str(error))
                continue
            self._volumes.setdefault(container, []).append(volume)
        if container in self._volumes:
            self._note()

    def forget(self, container: str) -> None:
        """Follow the volumes of a container no more."""
        for volume in self._volumes.pop(container, ()):
            os.close(volume.watch)

    def close(self) -> None:
        """Follow nothing any more."""
        for container in list(self._volumes):
            self.forget(container)
        if self._pending is not None:
            self._pending.cancel()
        if self._task is not None:
            self._task.cancel()

    def _note(self) -> None:
        """Look at all volumes soon: a signal does not say which it is about."""
        if self._pending is None:
            self._pending = asyncio.get_running_loop().call_later(_SETTLE, self._look)

    def _look(self) -> None:
        self._pending = None
        if self._task is not None and not self._task.done():
            self._note()
            return
        self._task = asyncio.create_task(self._publish_all())

    async def _publish_all(self) -> None:
        for container, volumes in list(self._volumes.items()):
            for volume in volumes:
                try:
                    await self._publish(volume)
                except (KataError, OSError) as error:
                    if isinstance(error, GuestError) and error.status in (Code.UNIMPLEMENTED, Code.NOT_FOUND):
                        self.forget(container)  # the agent looks by itself, or shows it from the share
                        break
                    what = f"container {container} keeps an older version of {volume.place.directory}"
                    self._log.write("error", what, error=str(error))

    async def _publish(self, volume: _Volume) -> None:
        entries = read_entries(volume.place.directory, size=_MOST_BYTES)
        signature = hash(tuple(entries))
        if signature == volume.published:
            return
        files = [_describe(entry) for entry in entries]
        await self._guest.publish_volume(Version(mount_point=volume.place.mount_point, files=files))
        volume.published = signature


def _describe(entry: Entry) -> File:
    return File(path=entry.path, mode=entry.mode, uid=entry.uid, gid=entry.gid, data=entry.data)
