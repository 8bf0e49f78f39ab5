"""Files of the kernel that announce a change by poll(POLLPRI), such as memory.events and cgroup.events."""

import asyncio
import os
import select
from collections.abc import Callable


class Changes:
    """Calls back when a watched file has changed. One epoll descriptor in the event loop stands for all files.

    asyncio's own selector knows readable and writable only, and such files are always both.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._dispatch)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        self._epoll.close()
        for descriptor in self._callbacks:
            os.close(descriptor)
        self._callbacks.clear()

    def watch(self, path: str, callback: Callable[[], None]) -> int:
        """Call back at each change of a file. Return a ticket for `unwatch`. Raise OSError."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.read(descriptor, 4096)  # only changes after a read are announced
        self._callbacks[descriptor] = callback
        self._epoll.register(descriptor, select.EPOLLPRI)
        return descriptor

    def unwatch(self, ticket: int) -> None:
        if self._callbacks.pop(ticket, None) is not None:
            self._epoll.unregister(ticket)
            os.close(ticket)

    def _dispatch(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            callback = self._callbacks.get(descriptor)
            if callback is None:
                continue
            try:
                os.pread(descriptor, 4096, 0)
            except OSError:  # ENODEV: its cgroup was removed
                self.unwatch(descriptor)
            callback()
