"""Waiting for a descriptor, for what asyncio has no transport for."""

import asyncio


async def wait_readable(descriptor: int) -> None:
    """Wait until a read would not block. Raise PermissionError for what cannot be polled (a file, /dev/null)."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
