"""The debug console: a shell of the guest on a terminal, for each connection to its port."""

import asyncio
import os
import pty
import signal

from kata.agent.log import Log
from kata.agent.reaper import Reaper

SHELLS = ("/bin/bash", "/bin/sh", "/usr/bin/bash", "/usr/bin/sh")
_CHUNK = 1 << 16


def find_shell() -> str | None:
    """The image's shell. Production images have none, and then there is no debug console."""
    return next((shell for shell in SHELLS if os.access(shell, os.X_OK)), None)


class ConsoleConnection(asyncio.Protocol):
    """Copies between a connection and a terminal on which a shell runs, and ends the shell with the connection."""

    def __init__(self, shell: str, reaper: Reaper, log: Log) -> None:
        self._shell = shell
        self._reaper = reaper
        self._log = log
        self._master = -1
        self._pid = 0
        self._transport: asyncio.Transport | None = None
        self._typed = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        try:
            self._pid, status = self._reaper.spawn_on_terminal([self._shell, "-i"], os.ttyname(slave))
        finally:
            os.close(slave)
        status.add_done_callback(self._end)
        self.resume_writing()
        self._log.write("info", "debug console opened", pid=self._pid)

    def data_received(self, data: bytes) -> None:
        self._typed += data
        self._type()

    def _type(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._transport is not None
        try:
            del self._typed[: os.write(self._master, self._typed)]
        except BlockingIOError:
            pass
        except OSError:
            self._typed.clear()
        if self._typed:
            self._transport.pause_reading()
            loop.add_writer(self._master, self._type)
        else:
            loop.remove_writer(self._master)
            self._transport.resume_reading()

    def _show(self) -> bool:
        """Pass on what the shell has written. False when there is nothing now, or nothing any more."""
        assert self._transport is not None
        try:
            data = os.read(self._master, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last program has closed the terminal
            data = b""
        if data:
            self._transport.write(data)
        else:
            self._transport.close()
        return bool(data)

    def pause_writing(self) -> None:
        if self._master >= 0:
            asyncio.get_running_loop().remove_reader(self._master)

    def resume_writing(self) -> None:
        if self._master >= 0:
            asyncio.get_running_loop().add_reader(self._master, self._show)

    def _end(self, _: "asyncio.Future[int]") -> None:
        """The shell has ended; its last words may still be in the terminal."""
        self._pid = 0
        while self._master >= 0 and self._show():
            pass
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature of asyncio
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._master)
        loop.remove_writer(self._master)
        os.close(self._master)
        self._master = -1
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
