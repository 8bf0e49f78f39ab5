"""News of a namespace: the kernel tells whoever listens that links, addresses, routes or rules have changed.

Source: rtnetlink(7), multicast groups of <linux/rtnetlink.h>.
"""

import asyncio
import errno
import socket
import time
from contextlib import suppress
from typing import Final

from kata.errors import HostError

_RTMGRP_LINK = 0x1
_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV4_ROUTE = 0x40
_RTMGRP_IPV4_RULE = 0x80
_RTMGRP_IPV6_IFADDR = 0x100
_RTMGRP_IPV6_ROUTE = 0x400
# A group without a name for masks: bit RTNLGRP_IPV6_RULE - 1.
_RTMGRP_IPV6_RULE = 1 << 18
_GROUPS: Final = (
    _RTMGRP_LINK
    | _RTMGRP_IPV4_IFADDR
    | _RTMGRP_IPV4_ROUTE
    | _RTMGRP_IPV4_RULE
    | _RTMGRP_IPV6_IFADDR
    | _RTMGRP_IPV6_ROUTE
    | _RTMGRP_IPV6_RULE
)

_QUIET = 0.1
_LONGEST = 1.0


class NamespaceWatch:
    """Listens in the calling thread's network namespace until `close`. Raise HostError."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
            self._socket.bind((0, _GROUPS))
        except OSError as error:
            raise HostError(f"changes of the pod's network cannot be followed: {error.strerror}") from error

    async def wait_change(self, *, timeout: float | None = None) -> None:
        """Wait until something has changed, and nothing more for a while: plug-ins change one thing after another.

        Return after `timeout` seconds too.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._read()
                latest = time.monotonic() + _LONGEST
                while time.monotonic() < latest:
                    async with asyncio.timeout(_QUIET):
                        await self._read()

    async def _read(self) -> None:
        # Whatever it says, the namespace is looked at as a whole: one byte is read of each message, the rest dropped.
        try:
            await asyncio.get_running_loop().sock_recv(self._socket, 1)
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # so many changes that the kernel has dropped some
                raise HostError(f"changes of the pod's network cannot be followed: {error.strerror}") from error

    def drain(self) -> None:
        """Forget what has been told and not been waited for."""
        while True:
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise HostError(f"changes of the pod's network cannot be followed: {error.strerror}") from error

    def close(self) -> None:
        self._socket.close()
