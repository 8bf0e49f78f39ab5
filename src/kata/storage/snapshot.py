"""Files and directories of the host, read whole: what is copied into a guest that shares none with the host."""

import errno
import os
import stat

from kata.errors import HostError, NotFoundError, UnsupportedError
from kata.sys.filetree import MOST_ENTRIES, Entry, read_entries

MOST_BYTES = 16 << 20
"""Size of one volume. A copy is in the guest's memory, and in this process while it is made."""

_TOP = "."
_HINT = "give the container a block device or a direct-assigned volume, or use a hypervisor with shared files"


def read_snapshot(path: str) -> dict[str, Entry]:
    """Return a file, or a directory with all below it but special files, by name; `.` is the path's own.

    Raise NotFoundError, UnsupportedError for what is too big and for sockets, pipes and devices, and HostError.
    """
    try:
        if os.path.isdir(path):
            return {entry.path: entry for entry in read_entries(path, size=MOST_BYTES)}
        return {_TOP: _read_file(path)}
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} cannot be copied into the guest: it does not exist") from error
    except OSError as error:
        if error.errno == errno.EFBIG:
            most = f"{MOST_BYTES >> 20} MiB or {MOST_ENTRIES} files"
            raise UnsupportedError(
                f"{path} cannot be copied into the guest: it has more than {most}", hint=_HINT
            ) from None
        raise HostError(f"{path} cannot be copied into the guest: {error.strerror}") from error


def _read_file(path: str) -> Entry:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        why = "it is a socket, a pipe or a device"
        raise UnsupportedError(f"{path} cannot be copied into the guest: {why}", hint=_HINT)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise OSError(errno.EFBIG, "there is too much", path)
    return Entry(_TOP, status.st_mode, status.st_uid, status.st_gid, data)
