"""A ttrpc client that blocks: for short-lived commands, where importing asyncio costs more than the call itself."""

from __future__ import annotations

import os
import socket
import time

from kata.errors import Code, DeadlineError, GuestError, ProtocolError
from kata.protocol.protobuf import Message
from kata.protocol.ttrpc.engine import Answer, ClientEngine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    Reply = TypeVar("Reply", bound=Message)

_CHUNK = 1 << 16


class BlockingClient:
    """One connection, one call at a time. Owns the socket. `peer` names the other end in errors."""

    def __init__(self, connection: socket.socket, peer: str) -> None:
        self.peer = peer
        self._connection = connection
        self._engine = ClientEngine()

    def call(self, service: str, method: str, request: Message, reply: type[Reply], *, timeout: float) -> Reply:
        """Call and wait for the answer, `timeout` seconds at most.

        Raise GuestError with the peer's status, DeadlineError, or ProtocolError. After one of the latter two, or after
        a GuestError of code UNAVAILABLE, the connection is of no further use.
        """
        deadline = time.monotonic() + timeout
        stream, data = self._engine.request(service, method, request.encode(), timeout)
        try:
            self._connection.settimeout(timeout)
            self._connection.sendall(data)
            answer = self._receive(stream, deadline)
        except TimeoutError as error:
            raise DeadlineError(f"{self.peer} did not answer {method} within {timeout:g} s") from error
        except OSError as error:
            raise GuestError(
                f"{self.peer} closed the connection during {method}: {error.strerror}", status=Code.UNAVAILABLE
            ) from error
        if answer.code != Code.OK:
            raise GuestError(answer.message or f"{self.peer} refused {method}", status=Code.find(answer.code))
        return reply.decode(answer.payload)

    def _receive(self, stream: int, deadline: float) -> Answer:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            data = self._connection.recv(_CHUNK)
            if not data:
                raise ConnectionResetError(0, "end of stream")
            for answer in self._engine.receive(data):
                if answer.stream == stream:
                    return answer
                raise ProtocolError(f"{self.peer} answered stream {answer.stream}, which nobody asked")

    def close(self) -> None:
        self._connection.close()


def connect_unix_socket(path: str, kind: socket.SocketKind, *, timeout: float) -> socket.socket:
    """Connect to a Unix socket whose path may be longer than the 107 bytes of sockaddr_un. Raise OSError."""
    directory, name = os.path.split(path)
    connection = socket.socket(socket.AF_UNIX, kind)
    try:
        connection.settimeout(timeout)
        place = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{place}/{name}")
        finally:
            os.close(place)
    except OSError:
        connection.close()
        raise
    return connection


def bind_unix_socket(path: str, kind: socket.SocketKind) -> socket.socket:
    """Bind a listening Unix socket whose path may be longer than the 107 bytes of sockaddr_un. Raise OSError."""
    directory, name = os.path.split(path)
    listener = socket.socket(socket.AF_UNIX, kind)
    try:
        place = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listener.bind(f"/proc/self/fd/{place}/{name}")
        finally:
            os.close(place)
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


def connect_blocking(path: str, peer: str, *, timeout: float) -> BlockingClient:
    """Connect a client to a Unix stream socket within `timeout` seconds. Raise GuestError when nobody listens there."""
    try:
        connection = connect_unix_socket(path, socket.SOCK_STREAM, timeout=timeout)
    except OSError as error:
        raise GuestError(
            f"{peer} cannot be reached at {path}: {error.strerror or error}", status=Code.UNAVAILABLE
        ) from error
    return BlockingClient(connection, peer)
