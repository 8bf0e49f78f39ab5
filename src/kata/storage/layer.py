"""Unpacking a layer of an image over the layers below it, whatever the layer's author had in mind.

No member can reach outside: parents are opened with RESOLVE_IN_ROOT, so `..` and links, absolute ones too, stay in the
root file system as they would in the container, and the last component is never followed.
Source: OCI image specification 1.1, layer.md (whiteouts); pax(1); SCHILY.xattr of star(5).
"""

import contextlib
import errno
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from typing import IO

from kata.errors import HostError, ProtocolError, UnsupportedError
from kata.sys.beneath import open_in_root

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_XATTR = "SCHILY.xattr."
_CHUNK = 1 << 20
_PATH = os.O_PATH | os.O_DIRECTORY
_LONGEST_NAME = 255
_DEEPEST = 256
_MOST_LINKS = 40


def unpack_layer(stream: IO[bytes], root: int) -> None:
    """Unpack an uncompressed tar stream into the directory open as `root`.

    Raise ProtocolError on a malformed archive or name, HostError where the file system refuses.
    """
    layer = _Layer(root)
    try:
        with tarfile.open(fileobj=stream, mode="r|", errorlevel=2) as archive:
            for member in archive:
                layer.place(archive, member)
    except (tarfile.TarError, EOFError) as error:
        raise ProtocolError(f"a layer is no tar archive: {error}") from error
    except OSError as error:
        raise HostError(f"a layer cannot be unpacked: {error.filename or ''}: {error.strerror}") from error
    finally:
        layer.finish()


def split_name(name: str) -> list[str]:
    """Return the components of a member's name. Raise ProtocolError on one that climbs or that no file can have."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ProtocolError(f"a layer's member {name!r} climbs out by ..")
    if "\0" in name or len(parts) > _DEEPEST or any(len(os.fsencode(part)) > _LONGEST_NAME for part in parts):
        raise ProtocolError(f"a layer's member has a name that no file can have: {name[:80]!r}")
    return parts


class _Layer:
    """The layer under way. It remembers what it placed, as a whiteout removes only what lower layers have."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._placed: set[str] = set()
        self._parent: tuple[str, int] | None = None
        self._times: dict[str, tuple[int, float]] = {}

    def place(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = split_name(member.name)
        if not parts:
            self._dress(self._root, ".", member)
            return
        *folder, name = parts
        parent = self._open_parent("/".join(folder))
        if name == _OPAQUE:
            self._empty(parent, "/".join(folder))
        elif name.startswith(f"{_WHITEOUT}{_WHITEOUT}"):
            pass  # bookkeeping of aufs
        elif name.startswith(_WHITEOUT):
            hidden = name.removeprefix(_WHITEOUT)
            if hidden in ("", ".", ".."):
                raise ProtocolError(f"a layer's whiteout {member.name!r} names no file")
            if "/".join([*folder, hidden]) not in self._placed:
                _remove(parent, hidden)
        else:
            self._make(archive, member, parent, name)
            self._remember(parts)

    def finish(self) -> None:
        """Set the times of directories, which what came after them has changed, and let go of the last parent."""
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None
        for path, (mode, moment) in self._times.items():
            with contextlib.suppress(OSError):  # replaced by something else meanwhile
                descriptor = open_in_root(self._root, path, _PATH | os.O_NOFOLLOW)
                try:
                    if stat.S_IMODE(os.fstat(descriptor).st_mode) == mode:
                        os.utime(f"/proc/self/fd/{descriptor}", (moment, moment))
                finally:
                    os.close(descriptor)

    def _remember(self, parts: list[str]) -> None:
        for length in range(len(parts), 0, -1):
            path = "/".join(parts[:length])
            if path in self._placed:
                break
            self._placed.add(path)

    def _open_parent(self, path: str) -> int:
        """Return the directory of a member, made where missing. It stays open until another one is asked for."""
        if self._parent is not None:
            if self._parent[0] == path:
                return self._parent[1]
            os.close(self._parent[1])
            self._parent = None
        self._parent = path, self._open_directory(path)
        return self._parent[1]

    def _open_directory(self, path: str, links: int = 0) -> int:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return open_in_root(self._root, path or ".", _PATH)
        folder, _, name = path.rpartition("/")
        above = self._open_directory(folder, links)
        try:
            target = _read_link(above, name)
            if target is None:
                _remove(above, name)
                os.mkdir(name, 0o755, dir_fd=above)
        finally:
            os.close(above)
        if target is None:
            return open_in_root(self._root, path, _PATH)
        if links >= _MOST_LINKS:
            raise ProtocolError(f"a layer's directory {path!r} is behind too many links")
        # A link to what is not there yet: the directory is made where it leads.
        place = os.path.normpath(os.path.join("/", folder, target))
        return self._open_directory(place.lstrip("/"), links + 1)

    def _empty(self, parent: int, folder: str) -> None:
        for name in os.listdir(f"/proc/self/fd/{parent}"):
            path = f"{folder}/{name}" if folder else name
            if path not in self._placed:
                _remove(parent, name)
            elif any(placed.startswith(f"{path}/") for placed in self._placed):
                self._empty_partly(parent, name, path)

    def _empty_partly(self, parent: int, name: str, path: str) -> None:
        """Empty a directory that this layer placed but lower ones have too."""
        with contextlib.suppress(NotADirectoryError, OSError):
            inner = os.open(name, _PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                self._empty(inner, path)
            finally:
                os.close(inner)

    def _make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> None:
        if member.isdir():
            self._make_directory(parent, name)
        elif member.islnk():
            self._link(member, parent, name)
            return
        else:
            _remove(parent, name)
            if member.isreg():
                _write(archive, member, parent, name)
            elif member.issym():
                os.symlink(member.linkname, name, dir_fd=parent)
            else:
                _make_node(member, parent, name)
        self._dress(parent, name, member)

    def _make_directory(self, parent: int, name: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                _remove(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent)

    def _link(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        *folder, target = split_name(member.linkname) or [""]
        if not target:
            raise ProtocolError(f"a layer's hard link {member.name!r} names no file")
        source = self._open_directory("/".join(folder))
        try:
            if os.path.samestat(os.fstat(source), os.fstat(parent)) and target == name:
                return
            _remove(parent, name)
            os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise ProtocolError(
                f"a layer's hard link {member.name!r} leads to {member.linkname!r}, not there"
            ) from None
        finally:
            os.close(source)

    def _dress(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        """Give a file its owner, mode, extended attributes and time, in an order that loses none of them."""
        os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        for key, value in _list_xattrs(member):
            path = f"/proc/self/fd/{parent}/{name}"
            try:
                os.setxattr(path, key, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise
        if member.issym():
            return
        mode = stat.S_IMODE(member.mode)
        os.chmod(name, mode, dir_fd=parent)
        if member.isdir():
            self._times[member.name] = mode, member.mtime
        else:
            os.utime(name, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)


def _list_xattrs(member: tarfile.TarInfo) -> Iterator[tuple[str, bytes]]:
    for key, value in member.pax_headers.items():
        if key.startswith(_XATTR):
            yield key.removeprefix(_XATTR), value.encode("utf-8", "surrogateescape")


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> None:
    stream = archive.extractfile(member)
    assert stream is not None
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=parent)
    with open(descriptor, "wb") as file:
        shutil.copyfileobj(stream, file, _CHUNK)


def _make_node(member: tarfile.TarInfo, parent: int, name: str) -> None:
    if member.isfifo():
        os.mkfifo(name, 0o600, dir_fd=parent)
    elif member.ischr() or member.isblk():
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        os.mknod(name, kind | 0o600, os.makedev(member.devmajor, member.devminor), dir_fd=parent)
    else:
        raise UnsupportedError(f"a layer's member {member.name!r} is of an unknown type {member.type!r}")


def _read_link(parent: int, name: str) -> str | None:
    """Return where a symbolic link leads; None for anything else and for nothing."""
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError:
        return None


def _remove(parent: int, name: str) -> None:
    """Remove a file or a directory with all in it, without following a link. A missing one is no error."""
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        shutil.rmtree(name, dir_fd=parent)
    else:
        os.unlink(name, dir_fd=parent)
