"""A log file that cannot fill a disk, whatever a guest writes."""

import os


class BoundedLog:
    """Appends to `path`; past half of `limit` bytes the file becomes `path`.1 and a new one begins.

    So the newest `limit` / 2 bytes are always there, and never more than `limit`. The descriptor is kept open.
    """

    def __init__(self, path: str, *, limit: int = 1 << 20) -> None:
        self.path = path
        self._half = limit // 2
        self._file = self._open(os.O_APPEND)
        self._size = os.fstat(self._file).st_size

    def _open(self, how: int) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | how, 0o600)

    def write(self, data: bytes) -> None:
        """Append. A full disk loses the data, silently: a log must not take its writer down."""
        if self._file < 0:
            return
        data = data[-self._half :]
        try:
            if self._size + len(data) > self._half:
                os.replace(self.path, self.path + ".1")
                os.close(self._file)
                self._file = -1
                self._file = self._open(os.O_TRUNC)
                self._size = 0
            self._size += os.write(self._file, data)
        except OSError:
            return

    def read_tail(self, size: int = 4096) -> bytes:
        """The newest `size` bytes."""
        tail = b""
        for path in (self.path, self.path + ".1"):
            if len(tail) >= size:
                break
            tail = _read_end(path, size - len(tail)) + tail
        return tail

    def close(self) -> None:
        """Close the descriptor; the files stay. `read_tail` goes on working."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _read_end(path: str, size: int) -> bytes:
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            return file.read(size)
    except FileNotFoundError:
        return b""
