"""Port forwarding: what engines connect to on the loopback of the pod's namespace, servers in the guest answer.

`kubectl port-forward` has the engine enter the pod's network namespace and dial localhost. The servers listen in the
guest, perhaps on its loopback only, where no packet from outside gets; so the daemon accepts there, and carries bytes
by the agent's calls. Each direction has one chunk under way: a slow reader stops its writer, and nothing grows.
"""

import asyncio
import socket
import struct
from collections.abc import Coroutine

from kata.errors import KataError, UnsupportedError
from kata.network.loopback import LoopbackListener
from kata.observe.log import Log
from kata.sandbox.guest import Guest

_CHUNK = 256 << 10
_MOST = 128
_RESET = struct.pack("=ii", 1, 0)
"""`struct linger` of socket(7): close with a reset, as a port where nobody listens answers."""


class PortForward:
    """Serves the loopback of the calling thread's network namespace until `close`."""

    def __init__(self, guest: Guest, log: Log) -> None:
        self._guest = guest
        self._log = log
        self._listener: LoopbackListener | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        """Whether there is a connection."""
        return self._listener is not None and len(self._tasks) > len(self._listener.sockets)

    def open(self) -> None:
        """Begin to accept. A kernel that cannot do it is noted in the log, since few pods are ever forwarded to."""
        try:
            self._listener = LoopbackListener()
        except UnsupportedError as error:
            self._log.write("warning", error.message, hint=error.hint)
            return
        for listener in self._listener.sockets:
            self._begin(self._accept(listener))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            if len(self._tasks) > _MOST:
                _reset(accepted)
                continue
            self._begin(self._serve(accepted))

    async def _serve(self, accepted: socket.socket) -> None:
        """Connect to the port that was dialled, in the guest, and carry bytes until both directions have ended."""
        connection = None
        try:
            port = accepted.getsockname()[1]
            connection = await self._guest.connect_port(port, ipv6=accepted.family == socket.AF_INET6)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry_in(accepted, connection))
                group.create_task(self._carry_out(accepted, connection))
        except* (KataError, OSError):
            _reset(accepted)
        finally:
            accepted.close()
            if connection is not None:
                await self._forget(connection)

    async def _carry_in(self, accepted: socket.socket, connection: int) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(accepted, _CHUNK):
            await self._guest.write_port(connection, data)
        await self._guest.write_port(connection, b"")

    async def _carry_out(self, accepted: socket.socket, connection: int) -> None:
        loop = asyncio.get_running_loop()
        while data := await self._guest.read_port(connection, _CHUNK):
            await loop.sock_sendall(accepted, data)
        accepted.shutdown(socket.SHUT_WR)

    async def _forget(self, connection: int) -> None:
        try:
            await self._guest.close_port(connection)
        except KataError:
            return  # the guest is gone, and its connections with it

    def close(self) -> None:
        """Stop, and close every connection. May be called again."""
        for task in list(self._tasks):
            task.cancel()
        if self._listener is not None:
            self._listener.close()
            self._listener = None


def _reset(accepted: socket.socket) -> None:
    try:
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        return  # closed already
    accepted.close()
