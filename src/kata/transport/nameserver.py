"""Messages of the domain name system on a TCP connection: each after its length in two bytes. Source: RFC 1035, 4.2.2.

All raise OSError.
"""

import asyncio
import socket

_LENGTH = 2


async def read_message(connection: socket.socket) -> bytes:
    """Return the next message, b"" where none comes any more."""
    length = int.from_bytes(await _read_exactly(connection, _LENGTH))
    return await _read_exactly(connection, length)


async def write_message(connection: socket.socket, data: bytes) -> None:
    """Send a message of at most 65535 bytes."""
    await asyncio.get_running_loop().sock_sendall(connection, len(data).to_bytes(_LENGTH) + data)


async def _read_exactly(connection: socket.socket, length: int) -> bytes:
    """Return so many bytes, or b"" where the connection ends before."""
    data = b""
    while len(data) < length:
        piece = await asyncio.get_running_loop().sock_recv(connection, length - len(data))
        if not piece:
            return b""
        data += piece
    return data
