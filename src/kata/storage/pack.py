"""Directories as images of a read-only file system (EROFS), for guests that share no files with the host.

An image is kept under a name that tells what the directory held, so that the second container of an engine's image
finds the first one's. Those that were used last are kept, up to a size.
"""

import os
import stat
import subprocess
from contextlib import suppress

from kata.errors import HostError, NotFoundError
from kata.sys.digest import digest_bytes
from kata.sys.program import find_program

CACHE = "/var/cache/kata-containers/roots"
MOST_BYTES = 8 << 30
"""Size of the images that are kept."""

_TIMEOUT = 600.0
_SUFFIX = ".erofs"
_SHOWN = 500


def pack_directory(path: str, descriptor: int, *, cache: str = CACHE) -> str:
    """Return the path of an image of the directory that is at `path` and that a descriptor has open.

    Raise NotFoundError without mkfs.erofs, HostError with what it said.
    """
    name = f"{cache}/{fingerprint_directory(descriptor)}{_SUFFIX}"
    try:
        os.makedirs(cache, 0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            os.utime(name)
            return name
        _make_image(path, descriptor, cache, name)
        _drop_oldest(cache, name)
    except OSError as error:
        raise HostError(f"{path} cannot be packed into {name}: {error.strerror}") from error
    return name


def fingerprint_directory(descriptor: int) -> str:
    """Return a name for what a directory holds, from the inodes of all that is below it.

    The time of a file's last change (ctime) is one that nobody can set. Those of directories are left out: an overlay
    that was made for a container alone has new ones.
    """
    lines: list[str] = []
    top = f"/proc/self/fd/{descriptor}"
    lines.append(_describe("", os.fstat(descriptor)))
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(f"{top}/{folder}") as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                lines.append(_describe(name, entry.stat(follow_symlinks=False)))
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                elif entry.is_symlink():
                    lines.append(os.readlink(f"{top}/{name}"))
    lines.sort()
    return digest_bytes("\0".join(lines).encode(errors="surrogateescape")).hex()


def _describe(name: str, status: os.stat_result) -> str:
    fields = [status.st_mode, status.st_uid, status.st_gid, status.st_rdev]
    if not stat.S_ISDIR(status.st_mode):
        fields += [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_nlink]
    return f"{name}\0{fields}"


def _make_image(path: str, descriptor: int, cache: str, name: str) -> None:
    """Make the image in a file without a name, of which a crash leaves nothing, and give it its own when it is whole.

    The directory is named by its descriptor too, and a dot: the tool does not follow links.
    """
    program = find_program("mkfs.erofs")
    if program is None:
        raise NotFoundError(
            f"{path} cannot be packed for a guest without shared files: there is no mkfs.erofs",
            hint="install erofs-utils",
        )
    image = os.open(cache, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        words = [program, "--quiet", f"/proc/self/fd/{image}", f"/proc/self/fd/{descriptor}/."]
        done = subprocess.run(
            words,
            pass_fds=(image, descriptor),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()[-_SHOWN:]
            raise HostError(f"{path} cannot be packed: mkfs.erofs ended with status {done.returncode}: {said}")
        with suppress(FileExistsError):  # another sandbox was quicker
            # With a directory, of which an absolute path makes no use, Python calls linkat(2), which can follow links.
            os.link(f"/proc/self/fd/{image}", name, src_dir_fd=image, follow_symlinks=True)
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{path} cannot be packed: mkfs.erofs took more than {_TIMEOUT:g} s") from error
    finally:
        os.close(image)


def _drop_oldest(cache: str, newest: str) -> None:
    """Remove the images that were not used for the longest time. A VM that has one open keeps it."""
    found = []
    for entry in os.scandir(cache):
        if entry.name.endswith(_SUFFIX):
            with suppress(FileNotFoundError):
                found.append((entry.stat().st_mtime_ns, entry.stat().st_blocks * 512, entry.path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= MOST_BYTES:
            break
        if path != newest:
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
