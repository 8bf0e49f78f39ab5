"""The clients of a ttrpc server, as they come and go."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from kata.transport.ttrpc import ServerConnection

_FAREWELL_TIMEOUT = 5.0


class Clients:
    """Connections with clients, each of which is made by `connect`."""

    def __init__(self, connect: Callable[[], ServerConnection]) -> None:
        self._connect = connect
        self._connections: list[ServerConnection] = []

    def welcome(self) -> ServerConnection:
        """Make the connection of one more client: what asyncio's servers call for each."""
        connection = self._connect()
        self._connections = [*(known for known in self._connections if not known.closed.is_set()), connection]
        return connection

    async def take_leave(self) -> None:
        """Let the calls under way be answered, for 5 seconds at most, and close the connections."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_TIMEOUT):
                for connection in self._connections:
                    await connection.finish()
