"""Files that the host copies into the guest where it cannot share a directory: `CopyFile`.

Every path is opened below the share with openat2(RESOLVE_BENEATH), so neither `..` nor a link that an earlier copy
or a container made leads outside. A file is written beside its place and moved there when its last byte has come.
"""

import contextlib
import os
import stat
from collections.abc import Iterator

from kata.errors import HostError, UsageError
from kata.protocol.messages.agent import CopyFileRequest
from kata.protocol.messages.files import SERVICE, RemoveRequest, RewriteRequest
from kata.protocol.messages.types import Empty
from kata.sys.beneath import open_beneath
from kata.sys.tree import remove_tree
from kata.transport.ttrpc import Method, Services

_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_IMPLICIT_MODE = 0o777
_MODE = 0o7777


def copy_file(share: str, request: CopyFileRequest) -> None:
    """Make the file, directory or link of the request. Raise UsageError for a path or kind that is not allowed."""
    path = _find_relative(share, request.path)
    os.makedirs(share, 0o755, exist_ok=True)
    try:
        with _open(share, _DIRECTORY) as root:
            parent, _, name = path.rpartition("/")
            with _open_parent(root, parent, request) as directory:
                _make(directory, name, request)
    except OSError as error:
        raise HostError(f"{request.path} cannot be made in the guest: {error.strerror}") from error


def remove_file(share: str, path: str) -> None:
    """Remove what is at a path below the share. Raise UsageError for a path that is not allowed, HostError."""
    parent, _, name = _find_relative(share, path).rpartition("/")
    try:
        with _open(share, _DIRECTORY) as root, _open(parent or ".", _DIRECTORY, root) as directory:
            _remove(directory, name)
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError(f"{path} cannot be removed in the guest: {error.strerror}") from error


def rewrite_file(share: str, request: RewriteRequest) -> None:
    """Give a file below the share other content in place: containers have the file itself, not its name.

    Raise UsageError for a path that is not allowed, HostError.
    """
    path = _find_relative(share, request.path)
    try:
        with _open(share, _DIRECTORY) as root, _open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK, root) as file:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise UsageError(f"{request.path} is no file in the guest")
            os.truncate(file, 0)
            rest = memoryview(request.data)
            while rest:
                rest = rest[os.write(file, rest) :]
    except OSError as error:
        raise HostError(f"{request.path} cannot be written in the guest: {error.strerror}") from error


def list_file_services(share: str) -> Services:
    """Return the table of the service by which copies are removed and written again."""

    async def remove(request: RemoveRequest) -> Empty:
        remove_file(share, request.path)
        return Empty()

    async def rewrite(request: RewriteRequest) -> Empty:
        rewrite_file(share, request)
        return Empty()

    return {SERVICE: {"Remove": Method(RemoveRequest, remove), "Rewrite": Method(RewriteRequest, rewrite)}}


def _find_relative(share: str, path: str) -> str:
    relative = path.removeprefix(f"{share}/")
    parts = relative.split("/")
    if relative == path or not path.startswith(share) or ".." in parts or not parts[-1] or parts[-1] == ".":
        raise UsageError(f"files can be copied below {share} only, not to {path!r}")
    return "/".join(part for part in parts if part and part != ".")


@contextlib.contextmanager
def _open(path: str, flags: int, directory: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC) if directory is None else open_beneath(directory, path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _open_parent(root: int, path: str, request: CopyFileRequest) -> Iterator[int]:
    """Open the directory of the new file, and make it and those above it if they are missing."""
    current = os.dup(root)
    try:
        for part in filter(None, path.split("/")):
            try:
                below = open_beneath(current, part, _DIRECTORY)
            except FileNotFoundError:
                os.mkdir(part, request.dir_mode & _IMPLICIT_MODE, dir_fd=current)
                os.chown(part, request.uid, request.gid, dir_fd=current, follow_symlinks=False)
                below = open_beneath(current, part, _DIRECTORY)
            os.close(current)
            current = below
        yield current
    finally:
        os.close(current)


def _make(directory: int, name: str, request: CopyFileRequest) -> None:
    kind = stat.S_IFMT(request.file_mode)
    if kind == stat.S_IFDIR:
        _make_directory(directory, name, request)
    elif kind == stat.S_IFLNK:
        temporary = f".{name}.part"
        _remove(directory, temporary)
        os.symlink(request.data, temporary.encode(), dir_fd=directory)
        os.chown(temporary, request.uid, request.gid, dir_fd=directory, follow_symlinks=False)
        _replace(directory, temporary, name)
    elif kind in {0, stat.S_IFREG}:
        _write(directory, name, request)
    else:
        raise UsageError(f"{request.path} is neither a file, a directory nor a link: mode {request.file_mode:#o}")


def _make_directory(directory: int, name: str, request: CopyFileRequest) -> None:
    """An existing directory keeps its content; anything else in its place goes."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(name, dir_fd=directory)
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, request.file_mode & _IMPLICIT_MODE, dir_fd=directory)
    with _open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, directory) as made:
        os.fchown(made, request.uid, request.gid)
        os.fchmod(made, request.file_mode & _MODE)


def _write(directory: int, name: str, request: CopyFileRequest) -> None:
    temporary = f".{name}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
    if request.offset == 0:
        _remove(directory, temporary)
        flags |= os.O_EXCL
    file = open_beneath(directory, temporary, flags, request.file_mode & _MODE)
    try:
        rest, offset = memoryview(request.data), request.offset
        while rest:
            written = os.pwrite(file, rest, offset)
            rest, offset = rest[written:], offset + written
        if os.fstat(file).st_size != request.file_size:
            return
        os.fchown(file, request.uid, request.gid)
        os.fchmod(file, request.file_mode & _MODE)  # after chown, which drops set-user-id
    finally:
        os.close(file)
    _replace(directory, temporary, name)


def _replace(directory: int, temporary: str, name: str) -> None:
    """Move what is finished to its place, at once where there is anything but a directory."""
    with contextlib.suppress(NotADirectoryError, FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            _remove(directory, name)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


def _remove(directory: int, name: str) -> None:
    """Remove whatever has this name in the directory; a link itself, not what it points to."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        remove_tree(f"/proc/self/fd/{directory}/{name}")
