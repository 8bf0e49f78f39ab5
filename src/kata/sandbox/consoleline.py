"""The debug console of a guest that is reached by vsock, at the Unix socket that the port of one without vsock has.

The daemon carries the bytes: a VMM's own socket is in a directory that nobody else sees.
"""

import asyncio
from contextlib import suppress

from kata.hypervisor.channel import DEBUG_CONSOLE_PORT
from kata.sandbox.line import Line, find_port_socket
from kata.sys.unixsocket import listen_unix

_CHUNK = 1 << 16


async def serve_console(line: Line) -> asyncio.Server:
    """Offer the console to whoever may connect to the sandbox, each a shell of its own, until the server is closed.

    Raise OSError where the socket cannot be made.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                guest = await asyncio.open_connection(sock=await line.open_stream(DEBUG_CONSOLE_PORT))
                await _join((reader, writer), guest)
        finally:
            writer.close()

    server = listen_unix(find_port_socket(line.directory, DEBUG_CONSOLE_PORT))
    return await asyncio.start_unix_server(serve, sock=server)


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _join(user: _Stream, guest: _Stream) -> None:
    """Copy both ways until either side ends."""
    copies = {asyncio.create_task(_copy(user[0], guest[1])), asyncio.create_task(_copy(guest[0], user[1]))}
    try:
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)
        guest[1].close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK):
        target.write(data)
        await target.drain()
