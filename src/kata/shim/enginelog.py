"""The engine's log, as far as a shim writes to it: by the FIFO `log` in its bundle, which containerd and CRI-O read.

The shim has both sides of it open. So lines that come while the engine is away wait in the FIFO until it is back, as
many as that holds (64 KiB, pipe(7)), and nobody is ever waited for.
"""

import os
import select
import stat


class EngineLog:
    """Takes lines for as long as the shim lives. Those that find the FIFO full are counted, and the count is told."""

    def __init__(self, path: str) -> None:
        """Open the FIFO at `path`. Where there is none, nobody reads, and lines go nowhere."""
        self._lost = 0
        self._descriptor: int | None = None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            self._descriptor = descriptor
        else:
            os.close(descriptor)

    def write(self, line: str) -> None:
        """Pass a line on, its first 4095 bytes at most: that much is written as a whole or not at all."""
        if self._lost and self._put(f"containerd-shim-kata-v2: {self._lost} lines are not shown: nobody read them"):
            self._lost = 0
        if self._lost or not self._put(line):
            self._lost += 1

    def _put(self, line: str) -> bool:
        if self._descriptor is None:
            return True
        data = line.encode(errors="replace")[: select.PIPE_BUF - 1] + b"\n"
        try:
            return os.write(self._descriptor, data) == len(data)
        except OSError:
            return False

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
