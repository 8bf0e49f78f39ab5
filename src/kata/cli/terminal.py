"""Terminals: the pair that an engine asks for, the user's own, raw mode and sizes.

The process's true terminal is in the guest and does all of the line discipline; so a terminal on the host, whose bytes
go there, is always raw.
"""

from __future__ import annotations

import os
import socket
import termios
import tty

from kata.errors import HostError, UsageError
from kata.transport.ttrpc_blocking import connect_unix_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

_SEND_TIMEOUT = 10.0


def open_terminal_pair(console_socket: str) -> int:
    """Make a terminal, send its master end over the Unix socket and return the slave end, raw.

    The master's file name goes with the descriptor, as runc does it. Raise HostError where the socket takes no master.
    """
    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        with connect_unix_socket(console_socket, socket.SOCK_STREAM, timeout=_SEND_TIMEOUT) as connection:
            socket.send_fds(connection, [b"/dev/ptmx"], [master])
    except OSError as error:
        os.close(slave)
        raise HostError(f"the terminal cannot be sent to the console socket {console_socket}: {error}") from error
    finally:
        os.close(master)
    return slave


def find_own_terminal() -> int:
    """Return the first of our standard streams that is a terminal. Raise UsageError where none is."""
    for descriptor in (0, 1, 2):
        if os.isatty(descriptor):
            return descriptor
    raise UsageError(
        "a terminal is wanted, but none of standard input, output and error is one",
        hint="give --console-socket with --detach, or set process.terminal to false",
    )


def read_size(terminal: int) -> tuple[int, int]:
    """Return rows and columns."""
    columns, rows = os.get_terminal_size(terminal)
    return rows, columns


class RawMode:
    """While entered, a terminal passes every byte on. Leaving restores it, whatever happened."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._saved: list[Any] = []

    def __enter__(self) -> Self:
        self._saved = termios.tcgetattr(self._terminal)
        tty.setraw(self._terminal, termios.TCSANOW)
        return self

    def __exit__(self, *_failure: object) -> None:
        termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._saved)
