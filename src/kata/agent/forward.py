"""Connections that the host asks for, to servers on the guest's loopback interface.

Nothing is buffered here: bytes are read when the host asks, and a write is answered when the server took it.
"""

import asyncio
import errno
import socket

from kata.errors import HostError, NotFoundError, StateError, UsageError
from kata.protocol.messages import forward as wire
from kata.protocol.messages.types import Empty
from kata.transport.ttrpc import Method, Services

_MOST = 256
_LARGEST_READ = 1 << 20
_CONNECT_TIMEOUT = 10.0
_LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class Forwarder:
    """The table of connections. Errors name the port."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._last = 0

    async def connect(self, request: wire.ConnectRequest) -> wire.Connection:
        """Connect to a port. Raise NotFoundError where nobody listens, StateError where there are too many already."""
        if not 0 < request.port < 1 << 16:
            raise UsageError(f"{request.port} is not a TCP port")
        if len(self._sockets) >= _MOST:
            raise StateError(f"the guest has {_MOST} forwarded connections already")
        connected = None
        for family, address in reversed(_LOOPBACKS) if request.ipv6 else _LOOPBACKS:
            connected = connected or await _try_to_connect(family, address, request.port)
        if connected is None:
            raise NotFoundError(f"nobody listens on port {request.port} of the guest's loopback interface")
        self._last += 1
        self._sockets[self._last] = connected
        return wire.Connection(id=self._last)

    def _find(self, number: int) -> socket.socket:
        try:
            return self._sockets[number]
        except KeyError:
            raise NotFoundError(f"there is no forwarded connection {number}") from None

    async def read(self, request: wire.ReadRequest) -> wire.Data:
        """Wait for bytes; none at the end, also where the server reset the connection."""
        connected = self._find(request.id)
        try:
            data = await asyncio.get_running_loop().sock_recv(connected, min(request.len, _LARGEST_READ))
        except OSError:
            data = b""
        return wire.Data(data=data)

    async def write(self, request: wire.WriteRequest) -> Empty:
        """Have the server take the bytes; without any, tell it that no more come. Raise HostError where it is gone."""
        connected = self._find(request.id)
        try:
            if request.data:
                await asyncio.get_running_loop().sock_sendall(connected, request.data)
            else:
                connected.shutdown(socket.SHUT_WR)
        except OSError as error:
            if not request.data and error.errno == errno.ENOTCONN:
                return Empty()
            raise HostError(f"the server of forwarded connection {request.id} is gone: {error.strerror}") from error
        return Empty()

    async def close(self, request: wire.Connection) -> Empty:
        """Close a connection, whatever state it is in. Once closed it stays so."""
        connected = self._sockets.pop(request.id, None)
        if connected is not None:
            # A read under way on this descriptor must not be left to another that gets its number.
            loop = asyncio.get_running_loop()
            loop.remove_reader(connected)
            loop.remove_writer(connected)
            connected.close()
        return Empty()


async def _try_to_connect(family: socket.AddressFamily, address: str, port: int) -> socket.socket | None:
    try:
        attempt = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError:  # a kernel without IPv6
        return None
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            await asyncio.get_running_loop().sock_connect(attempt, (address, port))
    except OSError:
        attempt.close()
        return None
    except BaseException:
        attempt.close()
        raise
    return attempt


def list_forward_services() -> Services:
    """Return the table of the service, with a table of connections of its own."""
    forwarder = Forwarder()
    return {
        wire.SERVICE: {
            "Connect": Method(wire.ConnectRequest, forwarder.connect),
            "Read": Method(wire.ReadRequest, forwarder.read),
            "Write": Method(wire.WriteRequest, forwarder.write),
            "Close": Method(wire.Connection, forwarder.close),
        }
    }
