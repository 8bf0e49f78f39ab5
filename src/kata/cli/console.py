"""`console`: the debug console of a sandbox, a shell in the guest beside the containers."""

import os
import select
import socket
import sys

from kata.cli.invocation import Invocation
from kata.cli.records import find_sandbox_dir
from kata.cli.sandbox_id import find_sandbox
from kata.cli.terminal import RawMode
from kata.errors import HostError, NotFoundError
from kata.transport.ttrpc_blocking import connect_unix_socket

_PORT = 1026
_CONNECT_TIMEOUT = 5.0
_CHUNK = 1 << 16
_LEAVE = b"\x1d"  # Ctrl-], as telnet and virsh have it
_HINT = "set debug_console_enabled = true in [agent.kata] before the sandbox starts"


def run_console(invocation: Invocation) -> int:
    sandbox = find_sandbox(invocation.root, invocation.arguments[0])
    path = f"{find_sandbox_dir(invocation.root, sandbox)}/vport-{_PORT}.sock"
    if not os.path.exists(path):
        raise NotFoundError(f"sandbox {sandbox} has no debug console", hint=_HINT)
    try:
        connection = connect_unix_socket(path, socket.SOCK_STREAM, timeout=_CONNECT_TIMEOUT)
    except OSError as error:
        raise HostError(f"the debug console of sandbox {sandbox} cannot be reached: {error}", hint=_HINT) from error
    with connection:
        connection.setblocking(True)
        if not os.isatty(0):
            return copy_streams(connection)
        print("connected; Ctrl-] leaves", file=sys.stderr)
        with RawMode(0):
            return copy_streams(connection)


def copy_streams(connection: socket.socket) -> int:
    """Copy standard input to the console and back until either ends or the user leaves."""
    connection.sendall(b"\n")  # the shell shows its prompt
    sources = [0, connection.fileno()]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if connection.fileno() in ready:
            data = connection.recv(_CHUNK)
            if not data:
                return 0
            os.write(1, data)
        if 0 in ready:
            data = os.read(0, _CHUNK)
            if _LEAVE in data and os.isatty(0):
                return 0
            if data:
                connection.sendall(data)
            else:
                sources.remove(0)
