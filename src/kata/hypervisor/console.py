"""What a VMM writes to a socket or a pipe, above all the guest's console, copied to a bounded log."""

import asyncio
import io
import os
import socket

from kata.protocol.text import clean_text
from kata.transport.boundedlog import BoundedLog

_TAIL = 4096
_READ = 65536


class Console:
    """Reads what the guest writes, as it comes. Owns the connection; the log is the caller's."""

    def __init__(self, connection: socket.socket | io.FileIO, log: BoundedLog) -> None:
        self._connection = connection
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._closed = False
        os.set_blocking(connection.fileno(), False)
        self._loop.add_reader(connection, self._drain)

    def _drain(self) -> None:
        """Log what the guest wrote; a bounded amount, so that a guest that floods its console cannot hold the loop."""
        for _ in range(4):
            try:
                data = os.read(self._connection.fileno(), _READ)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._loop.remove_reader(self._connection)
                return
            self._log.write(data)

    def read_tail(self) -> str:
        """Return the end of it, in lines without what a terminal would obey."""
        if not self._closed:
            self._drain()
        tail = self._log.read_tail(_TAIL).decode(errors="replace").replace("\r\n", "\n")
        return clean_text(tail, keep="\n\t").strip()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._connection)
            self._connection.close()
