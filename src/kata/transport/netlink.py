"""A synchronous netlink socket.

Synchronous although its callers run in an event loop: the kernel works a request off inside sendmsg(2), so that the
answer waits in the queue when the first recvmsg(2) is called. The timeout is a guard, not a wait.

The socket belongs to the network namespace in which it was opened, whatever its thread does later.
Source: netlink(7).
"""

import errno
import os
import socket
import time
from collections.abc import Callable, Container
from typing import Final, Self, TypeVar

from kata.errors import DeadlineError, HostError
from kata.protocol.netlink.message import Exchange, Request

_T = TypeVar("_T")

_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_NETLINK_GET_STRICT_CHK: Final = 12

# The kernel fills at most 32 KiB into one datagram of a dump. Source: netlink_dump in net/netlink/af_netlink.c.
_LARGEST_DATAGRAM: Final = 64 * 1024
_DUMP_ATTEMPTS: Final = 5


class Netlink:
    """A conversation with the kernel's rtnetlink. Close it, or use it in a with statement."""

    __slots__ = ("_sequence", "_socket", "_timeout")

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self._socket = sock
        self._timeout = timeout
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def run(self, request: Request, *, unless: Container[int] = ()) -> bool:
        """Have the kernel do it. Return False if it refused with one of the error numbers in `unless`.

        Any other refusal is a HostError with the kernel's sentence, whose cause is the OSError. No answer in time is
        a DeadlineError.
        """
        return not self._exchange(request, unless).error

    def ask(self, request: Request, parse: Callable[[bytes], _T], *, unless: Container[int] = ()) -> list[_T]:
        """Return the answers to a request. It is asked again if the objects changed while they were being listed.

        Refused with one of the error numbers in `unless`, the list is empty; otherwise errors are those of `run`.
        """
        for _attempt in range(_DUMP_ATTEMPTS):
            exchange = self._exchange(request, unless)
            if exchange.error:
                return []
            if not exchange.interrupted:
                return [parse(answer) for answer in exchange.answers]
        raise HostError(
            f"the kernel could not {request.purpose} {_DUMP_ATTEMPTS} times, because they changed meanwhile",
            hint="find out what keeps changing the network configuration",
        )

    def _exchange(self, request: Request, unless: Container[int]) -> Exchange:
        self._sequence += 1
        exchange = Exchange(request, self._sequence)
        deadline = time.monotonic() + self._timeout
        try:
            self._socket.settimeout(self._timeout)
            self._socket.send(exchange.datagram)
            while not exchange.feed(self._receive()):
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        except TimeoutError as error:
            raise DeadlineError(f"the kernel did not {request.purpose} within {self._timeout:g} s") from error
        except OSError as error:
            raise HostError(f"cannot ask the kernel to {request.purpose}: {error.strerror}") from error
        if exchange.error and exchange.error not in unless:
            cause = OSError(exchange.error, os.strerror(exchange.error))
            reason = ": ".join(filter(None, (cause.strerror, exchange.explanation)))
            raise HostError(f"the kernel refused to {request.purpose}: {reason}") from cause
        return exchange

    def _receive(self) -> bytes:
        datagram, _control, flags, (port, _groups) = self._socket.recvmsg(_LARGEST_DATAGRAM)
        if flags & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, f"an answer is larger than {_LARGEST_DATAGRAM} bytes")
        # Any process may send to any netlink port; only port 0 is the kernel.
        return datagram if port == 0 else b""


def open_netlink(*, timeout: float = 10.0) -> Netlink:
    """Open a socket to rtnetlink in the calling thread's network namespace; `timeout` in seconds holds per request."""
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    except OSError as error:
        raise HostError(f"cannot open a netlink socket: {error.strerror}") from error
    try:
        # Errors come with the kernel's sentence and without a copy of the request; dumps honour filters.
        for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK):
            sock.setsockopt(_SOL_NETLINK, option, 1)
        sock.bind((0, 0))
    except OSError as error:
        sock.close()
        raise HostError(f"cannot set up a netlink socket: {error.strerror}") from error
    return Netlink(sock, timeout)
