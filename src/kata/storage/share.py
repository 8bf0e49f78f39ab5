"""The directory that a sandbox shares with its guest, and the bind mounts that come and go in it.

    <base>/<sandbox>/mounts   bind mounts are made here; a mount of its own, shared
    <base>/<sandbox>/shared   the same directory again, a slave of `mounts`, read-only; virtiofsd exports this one
    <base>/<sandbox>/watched  slaves of directories of the host whose later mounts are to be shown too

virtiofsd copies our mount namespace when it starts. Its copy of `shared` is again a slave of `mounts`, so what is bound
below `mounts` later appears there, and through it in the guest; nothing travels back (mount_namespaces(7), shared
subtrees). The directories between the binds are read-only to virtiofsd, so a guest cannot put a link where the next
bind will go. Call in a mount namespace of our own: all of it then vanishes with the process.
"""

import os
import stat
from contextlib import suppress

from kata.errors import ExistsError, HostError, NotFoundError, UsageError
from kata.storage.follow import FollowedTree
from kata.sys import linux
from kata.sys.mount import (
    attach_tree,
    bind,
    clone_mount,
    clone_tree,
    list_mounts,
    set_propagation,
    unmount,
    unmount_below,
)


class Share:
    """The share of one sandbox. `export` is what virtiofsd serves."""

    def __init__(self, base: str, sandbox_id: str) -> None:
        self.directory = os.path.join(base, sandbox_id)
        self.mounts = os.path.join(self.directory, "mounts")
        self.export = os.path.join(self.directory, "shared")
        self._watched = os.path.join(self.directory, "watched")
        self._bound: dict[str, set[str]] = {}
        self._followed: dict[str, FollowedTree] = {}

    def open(self) -> None:
        """Make the directories and mounts. Raise HostError; nothing is left then."""
        try:
            for path, mode in ((self.directory, 0o700), (self.mounts, 0o755), (self.export, 0o755)):
                os.makedirs(path, mode=mode, exist_ok=True)
            bind(self.mounts, self.mounts, recursive=False)
            # Private first: a peer group of its own, not the one of the file system below.
            set_propagation(self.mounts, linux.MS_PRIVATE)
            set_propagation(self.mounts, linux.MS_SHARED)
            bind(self.mounts, self.export, recursive=False)
            set_propagation(self.export, linux.MS_SLAVE)
            linux.mount("none", self.export, flags=linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY)
        except OSError as error:
            self.release()
            raise HostError(f"the share at {self.directory} cannot be made: {error}") from error

    def hold(self, name: str, owner: str) -> bool:
        """Let one more owner have a bind, which stays until the last one gives it up. Say whether there is such a bind.

        What several containers have is to be one bind: for virtiofsd, and so in the guest, the same file by way of two
        binds is two files, and then no lock, socket or mapping of one is the other's.
        """
        if name not in self._bound:
            return False
        self._bound[name].add(owner)
        return True

    def bind(self, source: str, name: str, *, readonly: bool = False) -> str:
        """Show a host's file or directory, with all mounted below it, as `name` (`<container>/rootfs`) in the share.

        Returns the path in `mounts`. Raise UsageError for a name that leaves the share or lies in another bind,
        ExistsError, NotFoundError for the source, HostError.
        """
        self._check_name(name)
        try:
            tree = clone_tree(source)
        except OSError as error:
            raise NotFoundError(f"{source} cannot be shared as {name}: {error.strerror}") from error
        try:
            return self.attach(tree, name, readonly=readonly)
        finally:
            os.close(tree)

    def attach(self, tree: int, name: str, *, readonly: bool = False, top_only: bool = False, owner: str = "") -> str:
        """Do the same with a detached tree of mounts, which stays the caller's to close.

        `top_only` leaves what is mounted below it writable.
        """
        self._check_name(name)
        try:
            place = self._make_place(name, directory=stat.S_ISDIR(os.fstat(tree).st_mode))
            try:
                attach_tree(tree, place, readonly=readonly, top_only=top_only)
            except OSError:
                self._remove_place(name)
                raise
            finally:
                os.close(place)
        except OSError as error:
            raise HostError(f"{name} cannot be put into the share at {self.directory}: {error}") from error
        self._bound[name] = {owner}
        return os.path.join(self.mounts, name)

    def follow(self, tree: int, name: str, *, readonly: bool = False, owner: str = "") -> str:
        """Do what `attach` does, and from now on show and hide what is mounted below the directory on the host.

        The mounts of the tree are to be slaves of the host's, or shared with them. Call in an event loop.
        """
        if not stat.S_ISDIR(os.fstat(tree).st_mode):
            return self.attach(tree, name, readonly=readonly, owner=owner)
        watched = os.path.join(self._watched, name)
        try:
            os.makedirs(watched)
            place = os.open(watched, os.O_PATH | os.O_CLOEXEC)
            try:
                attach_tree(tree, place, readonly=False, propagation=linux.MS_SLAVE)
            finally:
                os.close(place)
            top = clone_mount(tree)
        except OSError as error:
            unmount_below(watched)
            raise HostError(f"mounts below {name} cannot be watched for the share: {error}") from error
        try:
            shown = self.attach(top, name, readonly=readonly, owner=owner)
        except BaseException:
            unmount_below(watched)
            raise
        finally:
            os.close(top)
        self._followed[name] = FollowedTree(watched, shown, readonly=readonly)
        return shown

    def make_directory(self, name: str, *, mode: int = 0o755) -> str:
        """A plain directory of the share, to be filled by the host. Read-only for the guest."""
        self._check_name(name)
        path = os.path.join(self.mounts, name)
        try:
            os.makedirs(path, mode=mode, exist_ok=True)
        except OSError as error:
            raise HostError(f"{path} cannot be made: {error.strerror}") from error
        return path

    def unbind(self, name: str, owner: str = "") -> None:
        """Give up an owner's bind. With the last owner it goes, for the guest too. Raise NotFoundError, HostError."""
        owners = self._bound.get(name, set())
        if owner not in owners:
            raise NotFoundError(f"{name} is not in the share at {self.directory}")
        if len(owners) > 1:
            owners.remove(owner)
            return
        self._stop_following(name)
        try:
            # Detached, because the guest may still have files open; they stay valid, and nothing new can be opened.
            unmount(os.path.join(self.mounts, name), detach=True)
        except OSError as error:
            raise HostError(f"{name} cannot be taken out of the share at {self.directory}: {error}") from error
        del self._bound[name]
        self._remove_place(name)

    def _stop_following(self, name: str) -> None:
        followed = self._followed.pop(name, None)
        if followed is not None:
            followed.close()
            unmount_below(os.path.join(self._watched, name))
            os.rmdir(os.path.join(self._watched, name))

    def release(self) -> None:
        """Unmount everything and remove what was made. Deletes empty files and directories only, so never data."""
        for name in list(self._followed):
            self._stop_following(name)
        for path in (self.export, self.mounts, self._watched):
            unmount_below(path)
        self._bound.clear()
        remove_mount_points(self.directory)

    def _check_name(self, name: str) -> None:
        parts = name.split("/")
        if any(part in {"", ".", ".."} for part in parts) or "\0" in name:
            raise UsageError(f"{name!r} is no name in a share")
        if name in self._bound:
            raise ExistsError(f"{name} is in the share at {self.directory} already")
        for other in self._bound:
            # Inside another bind the guest owns the directories, and may have left links there.
            if name.startswith(other + "/") or other.startswith(name + "/"):
                raise UsageError(f"{name} cannot be shared inside or around {other}")

    def _make_place(self, name: str, *, directory: bool) -> int:
        """An O_PATH descriptor of the empty file or directory to mount on."""
        *folders, last = name.split("/")
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        parent = os.open(self.mounts, flags | os.O_DIRECTORY)
        try:
            for folder in [*folders, *([last] if directory else [])]:
                with suppress(FileExistsError):
                    os.mkdir(folder, 0o755, dir_fd=parent)
                inner = os.open(folder, flags | os.O_DIRECTORY, dir_fd=parent)
                os.close(parent)
                parent = inner
            if directory:
                return os.dup(parent)
            os.close(os.open(last, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent))
            return os.open(last, flags, dir_fd=parent)
        finally:
            os.close(parent)

    def _remove_place(self, name: str) -> None:
        """Remove a mount point and the directories above it that this leaves empty."""
        path = os.path.join(self.mounts, name)
        with suppress(OSError):
            _remove_one(path)
            while (path := os.path.dirname(path)) != self.mounts:
                os.rmdir(path)


def remove_mount_points(directory: str) -> None:
    """Remove a tree of empty files and directories of a sandbox that is gone; whatever holds data stays."""
    if list_mounts(directory):
        raise HostError(f"{directory} still has mounts, so nothing in it is removed")
    for folder, _, files in os.walk(directory, topdown=False):
        for path in (*(os.path.join(folder, name) for name in files), folder):
            with suppress(OSError):
                _remove_one(path)


def _remove_one(path: str) -> None:
    status = os.lstat(path)
    if stat.S_ISDIR(status.st_mode):
        os.rmdir(path)
    elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
        os.unlink(path)
