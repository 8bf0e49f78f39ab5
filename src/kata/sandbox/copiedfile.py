"""A single file of the host of which the guest has a copy: what is written to it is seen, whatever takes its name."""

import errno
import os
import stat

from kata.sys.dnotify import watch_writes, watch_writes_again

MOST_BYTES = 1 << 20
"""Content that is followed. A bigger file stays as it was copied."""


def open_file(path: str) -> tuple[int, int]:
    """Open a file, and the directory that it is in. Raise OSError."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is no file", path)
        return file, os.open(os.path.dirname(os.path.realpath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except BaseException:
        os.close(file)
        raise


class CopiedFile:
    """One file, by descriptors of it and of its directory, which it takes."""

    def __init__(self, descriptors: tuple[int, int]) -> None:
        """Raise OSError where the kernel does not tell of changes. Use in a thread that lasts: it gets the signals."""
        self._file, directory = descriptors
        try:
            self._watch = watch_writes(f"/proc/self/fd/{directory}")
        except OSError:
            os.close(self._file)
            raise
        finally:
            os.close(directory)
        self._stamp = self._read_stamp()

    def _read_stamp(self) -> tuple[int, int, int]:
        status = os.fstat(self._file)
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def read_news(self) -> bytes | None:
        """Return the content where it may be another one, None where nothing has changed, and go on watching.

        Raise OSError, with EFBIG for a file that has become too big.
        """
        watch_writes_again(self._watch)
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        data = os.pread(self._file, MOST_BYTES + 1, 0)
        if len(data) > MOST_BYTES:
            raise OSError(errno.EFBIG, f"it has more than {MOST_BYTES >> 20} MiB")
        return data

    def close(self) -> None:
        os.close(self._watch)
        os.close(self._file)
