"""The management socket of a sandbox: it listens from the start, and what serves it is loaded for the first client.

A pod that nobody looks at pays for one descriptor and this module.
"""

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from kata.observe.log import Log
from kata.sys.unixsocket import listen_unix

if TYPE_CHECKING:
    from kata.protocol.http import Request
    from kata.sandbox.sandbox import Sandbox
    from kata.transport.http import HttpConnection

SOCKET_NAME = "shim-monitor.sock"
_MAX_CLIENTS = 32


class Management:
    """Owns the socket of one sandbox, and its clients' connections."""

    def __init__(self, sandbox: "Sandbox", log: Log) -> None:
        self.path = f"{sandbox.directory}/{SOCKET_NAME}"
        self._sandbox = sandbox
        self._log = log
        self._listener: socket.socket | None = None
        self._server: asyncio.Task[asyncio.Server] | None = None
        self._clients: list[HttpConnection] = []

    def open(self) -> None:
        """Listen, for this user only. A sandbox that cannot be looked at still runs, so a failure is but logged."""
        try:
            self._listener = listen_unix(self.path)
        except OSError as error:
            self._log.write("error", f"{self.path} cannot be listened at", error=str(error))
            return
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._serve)

    def close(self) -> None:
        """Stop listening and drop every client. May be called again."""
        if self._listener is None:
            return
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        asyncio.get_running_loop().remove_reader(self._listener)
        if self._server is not None:
            self._server.add_done_callback(_close_server)
        else:
            self._listener.close()
        self._listener = None
        for client in self._clients:
            client.close()

    def _serve(self) -> None:
        """Take over from here: the first client is waiting to be accepted."""
        from kata.sandbox.management_calls import ManagementCalls  # noqa: PLC0415 - few sandboxes are looked at
        from kata.transport.http import HttpConnection  # noqa: PLC0415 - the same

        assert self._listener is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        calls = ManagementCalls(self._sandbox, self._log)

        def log_error(request: "Request", error: Exception) -> None:
            self._log.write("error", f"{request.method} {request.path} failed", error=repr(error))

        def welcome() -> HttpConnection:
            self._clients = [client for client in self._clients if not client.closed]
            if len(self._clients) >= _MAX_CLIENTS:
                self._clients[0].close()  # who came first has had the most time
            client = HttpConnection(calls.serve, log_error)
            self._clients.append(client)
            return client

        self._server = asyncio.create_task(loop.create_server(welcome, sock=self._listener))


def _close_server(server: "asyncio.Task[asyncio.Server]") -> None:
    if not server.cancelled() and server.exception() is None:
        server.result().close()
