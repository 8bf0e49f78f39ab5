"""Volumes of containers in a VM that shares no files with the host: copies of what the host has, kept up to date.

A copy goes one way. So a directory is taken only where the container may not write to it, and what is written to a
single file (/etc/hosts and the like) stays in the guest, until the host writes that file. A disk emptyDir of
Kubernetes, which is the pod's own and begins empty, is a directory of the guest.
"""

import asyncio
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from kata.errors import Code, GuestError, KataError, UnsupportedError
from kata.observe.log import Log
from kata.protocol.messages.agent import CopyFileRequest, Storage
from kata.sandbox.copiedfile import CopiedFile, open_file
from kata.sandbox.guest import Guest
from kata.sandbox.guestpaths import GUEST_LOCAL, GUEST_SHARE
from kata.sandbox.kubelet import PUBLISHED_DRIVER, is_scratch
from kata.sandbox.translation import Shared, Translation
from kata.storage.snapshot import read_snapshot
from kata.sys.digest import digest_bytes
from kata.sys.dnotify import SIGNAL, watch_entries
from kata.sys.filetree import Entry, sign_tree

_PIECE = 1 << 20
_SETTLE = 0.2  # seconds; a volume is changed in several steps
_PARENT_MODE = 0o755
_MOST_FILES = 64
"""Single files of a VM that are followed; each takes two descriptors."""


Look = Callable[[Callable[[], Any]], Any]
"""Does something where the host's files are as one of the two sees them."""


class Visit(Protocol):
    """Does something where the host's files are as the engine sees them, or as the container's process does."""

    def __call__(self, look: Callable[[], Any], /, *, local: bool) -> Any: ...


class _Copy:
    """A path of the host and its copy at `place` in the guest, for the containers that are its `owners`.

    `sent` has what was copied, by name, and `watches` the descriptors by which its directories are watched. `file` is
    there for a single file that is followed.
    """

    def __init__(self, source: str, place: str, look: Look) -> None:
        self.source = source
        self.place = place
        self.look = look
        self.owners: set[str] = set()
        self.sent: dict[str, tuple[int, int, int, bytes]] = {}
        self.watches: dict[str, int] = {}
        self.signature = 0
        self.file: CopiedFile | None = None
        self.sending = asyncio.Lock()

    def close(self) -> None:
        for watch in self.watches.values():
            os.close(watch)
        self.watches.clear()
        self.end_following()

    def end_following(self) -> None:
        file, self.file = self.file, None
        if file is not None:
            file.close()


class Copies:
    """All copies in one VM. Use from its event loop, in the main thread: signals are the process's."""

    def __init__(self, guest: Guest, log: Log) -> None:
        self._guest = guest
        self._log = log
        self._copies: dict[str, _Copy] = {}
        self._follower: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def put(self, translation: Translation, container: str, visit: Visit) -> Translation:
        """Copy what a container was to share, and return its translation for that.

        Raise NotFoundError for what is missing, UnsupportedError for what cannot be copied, GuestError.
        """
        # The guest's copy of a volume is no other than the one that is made here.
        moved = {one.mount_point: one.source for one in translation.storages if one.driver == PUBLISHED_DRIVER}
        storages = [one for one in translation.storages if one.mount_point not in moved]
        for shared in translation.shared:
            look = partial(visit, local=shared.local)
            place = f"{GUEST_SHARE}/{shared.name}"
            if is_scratch(shared.source):
                storages.append(_describe_local(shared, look))
                moved[place] = storages[-1].mount_point
                continue
            is_directory = look(partial(os.path.isdir, shared.source))
            if is_directory and not shared.readonly:
                raise UnsupportedError(
                    f"container {container}: {shared.source} is a directory to write to, and this VM shares no files",
                    hint="mount it read-only, or give the container a block device or a direct-assigned volume",
                )
            copy = _Copy(shared.source, place, look)
            await self._share(copy, container, is_file=not is_directory)
        for mount in translation.spec.Mounts:
            mount.source = moved.get(mount.source, mount.source)
        return translation._replace(storages=tuple(storages))

    async def _share(self, wanted: _Copy, container: str, *, is_file: bool) -> None:
        """Have a copy for a container; what the containers of a pod have in the same way is copied once."""
        copy = self._copies.setdefault(wanted.place, wanted)
        copy.owners.add(container)
        async with copy.sending:
            if not copy.sent:
                if is_file:
                    self._follow_file(copy)
                await self._send(copy)

    def _follow_file(self, copy: _Copy) -> None:
        """Follow what is written to a single file, which is the same one whatever takes its name: as a bind mount is.

        With too many of them it stays as it is.
        """
        if sum(other.file is not None for other in self._copies.values()) < _MOST_FILES:
            self._start_following()
            with suppress(OSError):  # it is no file, which the copy will tell, or the kernel tells nothing
                copy.file = CopiedFile(copy.look(partial(open_file, copy.source)))

    async def remove(self, container: str) -> None:
        """Take a container's copies out of the guest. Another agent than this project's keeps them to its end."""
        for copy in [copy for copy in self._copies.values() if container in copy.owners]:
            copy.owners.discard(container)
            if not copy.owners:
                del self._copies[copy.place]
                copy.close()
                await self._remove(copy.place)

    async def _remove(self, place: str) -> None:
        try:
            await self._guest.remove_file(place)
        except GuestError as error:
            if error.status != Code.UNIMPLEMENTED:
                raise

    def close(self) -> None:
        """Follow no changes any more."""
        if self._follower is not None:
            self._follower.cancel()
        for copy in self._copies.values():
            copy.close()

    def _start_following(self) -> None:
        if self._follower is None:
            asyncio.get_running_loop().add_signal_handler(SIGNAL, self._changed.set)
            self._follower = asyncio.create_task(self._follow())

    def _watch(self, copy: _Copy, name: str) -> None:
        """Follow what comes, goes and is renamed in a directory of a volume."""
        self._start_following()
        path = os.path.join(copy.source, name)
        with suppress(OSError):  # it has gone already, or the kernel tells nothing
            directory = copy.look(partial(os.open, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            try:  # by this thread: the kernel signals none that has ended
                copy.watches[name] = watch_entries(f"/proc/self/fd/{directory}")
            finally:
                os.close(directory)

    async def _follow(self) -> None:
        """Copy what has changed, soon after it did."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_SETTLE)
            self._changed.clear()
            for copy in [copy for copy in self._copies.values() if copy.watches or copy.file is not None]:
                try:
                    async with copy.sending:
                        if copy.owners:
                            await (self._send(copy) if copy.file is None else self._rewrite(copy, copy.file))
                except (KataError, OSError) as error:  # it is being changed, or has grown too big
                    self._log.write("warning", f"the guest's copy of {copy.source} is old", error=str(error))

    async def _rewrite(self, copy: _Copy, file: CopiedFile) -> None:
        """Give the guest's copy of a single file what the host's has now."""
        data = file.read_news()
        if data is None:
            return
        try:
            await self._guest.rewrite_file(copy.place, data)
        except GuestError as error:
            if error.status != Code.UNIMPLEMENTED:
                raise
            copy.end_following()

    async def _send(self, copy: _Copy) -> None:
        """Copy what is new, the links last, as one of them may be what makes a version count; remove what is gone."""
        signature = copy.look(partial(sign_tree, copy.source))
        if copy.sent and signature == copy.signature:
            return  # the signal was another's
        entries: dict[str, Entry] = copy.look(partial(read_snapshot, copy.source))
        for name, entry in entries.items():
            if stat.S_ISDIR(entry.mode) and name not in copy.watches:
                self._watch(copy, name)
        for entry in sorted(entries.values(), key=lambda entry: stat.S_ISLNK(entry.mode)):
            mark = (entry.mode, entry.uid, entry.gid, digest_bytes(entry.data))
            if copy.sent.get(entry.path) != mark:
                await self._send_entry(copy.place, entry)
                copy.sent[entry.path] = mark
        gone = copy.sent.keys() - entries.keys()
        for name in gone:
            del copy.sent[name]
            if name in copy.watches:
                os.close(copy.watches.pop(name))
            if os.path.dirname(name) not in gone:
                await self._remove(f"{copy.place}/{name}")
        copy.signature = signature

    async def _send_entry(self, place: str, entry: Entry) -> None:
        offset = 0
        while True:
            piece = entry.data[offset : offset + _PIECE]
            request = CopyFileRequest(
                path=os.path.normpath(f"{place}/{entry.path}"),
                file_size=len(entry.data),
                file_mode=entry.mode,
                dir_mode=_PARENT_MODE,
                uid=entry.uid,
                gid=entry.gid,
                offset=offset,
                data=piece,
            )
            await self._guest.copy_file(request)
            offset += len(piece)
            if offset >= len(entry.data):
                return


def _describe_local(shared: Shared, look: Look) -> Storage:
    """Return the guest's directory for an emptyDir, the same for each container of the pod."""
    status: os.stat_result = look(partial(os.stat, shared.source))
    options = [f"mode={stat.S_IMODE(status.st_mode) & 0o777:o}"]
    if status.st_gid:
        options.append(f"fsgid={status.st_gid}")
    place = f"{GUEST_LOCAL}/{digest_bytes(shared.source.encode()).hex()[:16]}"
    return Storage(driver="local", source="local", fstype="local", options=options, mount_point=place)
