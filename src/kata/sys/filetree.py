"""Small trees of files as values: read as a whole, and made elsewhere as the kubelet changes its volumes.

Source of the order: Kubernetes, pkg/volume/util/atomic_writer.go. The new version comes in a directory of its own, the
link `..data` is replaced by one that leads there, other links come, and what is not in the new version goes.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from kata.errors import UsageError
from kata.sys.beneath import open_without_links

MOST_ENTRIES = 1024
"""Files, directories and links of a tree."""

_VERSION_LINK = "..data"
_TEMPORARY = "..data_tmp"
"""What is to be renamed. The kubelet's own name, so that inotify says the same as where the kubelet is."""

_MODE = 0o7777


class Entry(NamedTuple):
    """A directory, a file with its content, or a link with its target, by its path in the tree; `.` is the tree."""

    path: str
    mode: int
    uid: int
    gid: int
    data: bytes = b""


def read_entries(directory: str, *, size: int) -> list[Entry]:
    """Return a tree that has `size` bytes of content at most. What goes meanwhile is left out, as are special files.

    Raise OSError: with EFBIG for a bigger tree, or one of more than MOST_ENTRIES.
    """
    entries = [_describe(".", os.stat(directory))]
    left = size
    for folder, inner, files, descriptor in os.fwalk(directory):
        for name in sorted({*inner, *files} - {_TEMPORARY}):
            path = os.path.normpath(os.path.join(os.path.relpath(folder, directory), name))
            with suppress(FileNotFoundError):
                entry = _read(descriptor, name, path, left)
                if entry is not None:
                    entries.append(entry)
                    left -= len(entry.data)
            if left < 0 or len(entries) > MOST_ENTRIES:
                raise OSError(errno.EFBIG, f"there are more than {size} bytes or {MOST_ENTRIES} files", directory)
    return entries


def _describe(path: str, status: os.stat_result, data: bytes = b"") -> Entry:
    return Entry(path, status.st_mode, status.st_uid, status.st_gid, data)


def _read(folder: int, name: str, path: str, left: int) -> Entry | None:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        return _describe(path, status, os.fsencode(os.readlink(name, dir_fd=folder)))
    if stat.S_ISREG(status.st_mode):
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder), "rb") as file:
            return _describe(path, status, file.read(left + 1))
    return _describe(path, status) if stat.S_ISDIR(status.st_mode) else None


def sign_tree(directory: str) -> int:
    """Return a number that is another one when the tree has changed, without reading its files."""
    seen = []
    for folder, inner, files, descriptor in os.fwalk(directory):
        for name in (*inner, *files):
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                seen.append((folder, name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return hash(tuple(seen))


def publish_entries(directory: str, entries: Sequence[Entry]) -> None:
    """Make the directory have these entries and no others; what is as it should be already is left alone.

    Links in the way are never followed. Raise UsageError for a path that leads out of the directory, OSError.
    """
    wanted = {entry.path for entry in entries}
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for entry in sorted(entries, key=_rank):
            if entry.path == ".":
                _dress(root, entry)
                continue
            folder, _, name = entry.path.rpartition("/")
            if name in ("", ".", "..", _TEMPORARY):
                raise UsageError(f"{entry.path!r} is no path of a file in a volume")
            with _open_folder(root, folder) as parent:
                _make(parent, name, entry)
        _remove_others(root, wanted)
    finally:
        os.close(root)


def _rank(entry: Entry) -> tuple[int, str]:
    if not stat.S_ISLNK(entry.mode):
        return 0, entry.path
    return (1 if entry.path == _VERSION_LINK else 2), entry.path


@contextmanager
def _open_folder(root: int, path: str) -> Iterator[int]:
    descriptor = open_without_links(root, path or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _make(parent: int, name: str, entry: Entry) -> None:
    there = _find(parent, name)
    if there is not None and stat.S_IFMT(there.st_mode) != stat.S_IFMT(entry.mode):
        _remove(parent, name, there)
        there = None
    if stat.S_ISDIR(entry.mode):
        if there is None:
            os.mkdir(name, 0o700, dir_fd=parent)
        with _open_folder(parent, name) as made:
            _dress(made, entry)
    elif there is None or not _is_same(parent, name, there, entry):
        if (left := _find(parent, _TEMPORARY)) is not None:
            _remove(parent, _TEMPORARY, left)
        if stat.S_ISLNK(entry.mode):
            os.symlink(entry.data, _TEMPORARY.encode(), dir_fd=parent)
            os.chown(_TEMPORARY, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(_TEMPORARY, flags, 0o600, dir_fd=parent), "wb", buffering=0) as file:
                file.write(entry.data)
                _dress(file.fileno(), entry)
        os.rename(_TEMPORARY, name, src_dir_fd=parent, dst_dir_fd=parent)


def _find(parent: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_same(parent: int, name: str, there: os.stat_result, entry: Entry) -> bool:
    if stat.S_ISLNK(entry.mode):
        return os.fsencode(os.readlink(name, dir_fd=parent)) == entry.data
    if (there.st_mode, there.st_uid, there.st_gid, there.st_size) != (*entry[1:4], len(entry.data)):
        return False
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent), "rb") as file:
        return file.read() == entry.data


def _dress(descriptor: int, entry: Entry) -> None:
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
        os.fchown(descriptor, entry.uid, entry.gid)
    if os.fstat(descriptor).st_mode & _MODE != entry.mode & _MODE:
        os.fchmod(descriptor, entry.mode & _MODE)


def _remove_others(root: int, wanted: set[str]) -> None:
    for folder, inner, files, descriptor in os.fwalk(".", topdown=False, dir_fd=root):
        for name in (*inner, *files):
            there = _find(descriptor, name)
            if there is not None and os.path.normpath(f"{folder}/{name}") not in wanted:
                _remove(descriptor, name, there)


def _remove(parent: int, name: str, there: os.stat_result) -> None:
    if not stat.S_ISDIR(there.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    with _open_folder(parent, name) as folder:
        _remove_others(folder, set())
    os.rmdir(name, dir_fd=parent)
