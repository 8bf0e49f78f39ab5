"""Vsock that ends in the VMM: a Unix socket at which the host asks for a port of the guest's.

One says `CONNECT <port>` and a line's end, and is answered `OK <number>`; where nobody listens in the guest the VMM
hangs up. Source: Firecracker's docs/vsock.md; Cloud Hypervisor does the same.
"""

import asyncio
import os
import socket

from kata.sys.unixsocket import open_socket_node

_LONGEST_ANSWER = 64


async def connect_hybrid(path: str, port: int) -> socket.socket:
    """A socket connected to a port of the guest's. Raise OSError where nobody listens, in the guest or at the path.

    The path is in a directory of the VMM's user, who may have put anything there: a link is not followed.
    """
    loop = asyncio.get_running_loop()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        node = open_socket_node(path)
        try:
            await loop.sock_connect(connection, f"/proc/self/fd/{node}")
        finally:
            os.close(node)
        await loop.sock_sendall(connection, f"CONNECT {port}\n".encode())
        answer = b""
        # Byte by byte: what follows the line's end is the guest's.
        while not answer.endswith(b"\n"):
            byte = await loop.sock_recv(connection, 1)
            if not byte or len(answer) >= _LONGEST_ANSWER:
                raise ConnectionRefusedError(f"nobody listens at port {port} of the guest")
            answer += byte
        if not answer.startswith(b"OK "):
            raise ConnectionRefusedError(f"the VMM answered {answer!r}")
    except BaseException:
        connection.close()
        raise
    return connection
