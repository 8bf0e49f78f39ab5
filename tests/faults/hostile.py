"""A peer that plays the guest's agent on the Unix socket of its port, and plays it badly."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from kata.protocol.ttrpc.engine import Call, ServerEngine
from kata.sandbox.guest import Guest
from kata.transport.ttrpc import connect_unix

Play = Callable[[Call, asyncio.StreamWriter], Awaitable[None]]
"""What the peer does about a call."""


@asynccontextmanager
async def open_guest(directory: Path, play: Play) -> AsyncIterator[Guest]:
    """A `Guest` whose every call is answered by `play`."""
    path = f"{directory}/vport-1024.sock"
    serving: list[tuple[asyncio.Task[None] | None, asyncio.StreamWriter]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append((asyncio.current_task(), writer))
        engine = ServerEngine()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                for call in engine.receive(data):
                    await play(call, writer)
                await writer.drain()

    server = await asyncio.start_unix_server(serve, path)
    try:
        guest = Guest(await connect_unix(path, "the agent", timeout=5))
        try:
            yield guest
        finally:
            guest.client.close()
            await guest.client.lost.wait()
    finally:
        for task, writer in serving:
            writer.transport.abort()
            if task is not None:
                await asyncio.wait({task})
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        server.close()
        await server.wait_closed()


def answer(payload: bytes) -> Play:
    """Answer every call with this payload."""

    async def play(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(ServerEngine.respond(call.stream, payload))

    return play


def send(data: bytes) -> Play:
    """Send these bytes, whatever was asked."""

    async def play(_: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return play
