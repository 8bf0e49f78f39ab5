"""The kernel's announcements of devices: a netlink socket of family NETLINK_KOBJECT_UEVENT."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import TypeVar

from kata.errors import DeadlineError

Found = TypeVar("Found")

_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1
_LOOK_AGAIN = 0.5  # seconds; a device may be usable a little after its announcement


class Uevents:
    """Wakes those who wait for a device. What the messages say is not read: sysfs tells it better."""

    def __init__(self) -> None:
        self._sock: socket.socket | None = None
        self._waiters: set[asyncio.Event] = set()

    def close(self) -> None:
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _open(self) -> None:
        if self._sock is None:
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._sock = socket.socket(socket.AF_NETLINK, kind, _KOBJECT_UEVENT)
            self._sock.bind((0, _KERNEL_GROUP))
            asyncio.get_running_loop().add_reader(self._sock.fileno(), self._receive)

    def _receive(self) -> None:
        assert self._sock is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    self._sock.recv(8192)
                except BlockingIOError:
                    break
                except OSError:  # ENOBUFS: messages were lost, which says as much
                    continue
        for waiter in self._waiters:
            waiter.set()

    async def wait_for(self, find: Callable[[], Found | None], what: str, *, timeout: float) -> Found:
        """Return what `find` finds, looking again at each announcement. Raise DeadlineError naming `what`."""
        self._open()
        found = find()
        if found is not None:
            return found
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    found = find()
                    if found is not None:
                        return found
                    waiter.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_AGAIN):
                            await waiter.wait()
        except TimeoutError as error:
            raise DeadlineError(
                f"{what} has not appeared in the guest within {timeout:g} s", hint="raise agent.hotplug_timeout"
            ) from error
        finally:
            self._waiters.discard(waiter)
