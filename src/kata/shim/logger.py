"""A program that takes a process's output: what the URIs `binary:///path?key=value` and `binary-v2://` name.

Source: containerd's core/runtime/v2/README.md, "Logging". The program finds the container's output on descriptor 3 and
its errors on 4; it closes 5 when it is ready, having written a byte there first if the scheme is `binary-v2`.
"""

import asyncio
import fcntl
import os
import signal
from contextlib import suppress
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from kata.errors import HostError
from kata.transport.readiness import wait_readable

_READY_TIMEOUT = 10.0
_END_TIMEOUT = 10.0
"""Seconds in which it has to write away what it read, from the end of its input on."""

_TERM_TIMEOUT = 2.0
_FIRST = 3
_SPARE = 10


class Logger:
    """A logging program. `stdout` and `stderr` are where to write; whoever takes them closes them."""

    def __init__(self, path: str, pid: int, stdout: int, stderr: int) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self._path = path
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)

    async def wait_ready(self, ready: int, *, strict: bool) -> None:
        """Wait for its word on the descriptor `ready`. Raise HostError when none comes."""
        try:
            async with asyncio.timeout(_READY_TIMEOUT):
                await wait_readable(ready)
        except TimeoutError as error:
            raise HostError(f"{self._path}, a logger, was not ready within {_READY_TIMEOUT:g} s") from error
        if strict and not os.read(ready, 1):
            raise HostError(f"{self._path}, a logger, ended before it was ready")

    async def end(self) -> None:
        """Wait for its end, now that its input has ended; hasten it when that takes too long."""
        try:
            for number, seconds in (
                (0, _END_TIMEOUT),
                (signal.SIGTERM, _TERM_TIMEOUT),
                (signal.SIGKILL, _TERM_TIMEOUT),
            ):
                with suppress(TimeoutError):
                    if number:
                        signal.pidfd_send_signal(self._pidfd, number)
                    async with asyncio.timeout(seconds):
                        await wait_readable(self._pidfd)
                    os.waitpid(self._pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait
                    return
        finally:
            os.close(self._pidfd)

    def kill(self) -> None:
        """End it at once."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._pidfd)


async def start_logger(uri: str, container: str, namespace: str) -> Logger:
    """Start the program that a URI names, for a process of this id, and wait until it is ready. Raise HostError."""
    parts = urlsplit(uri)
    path = unquote(parts.path)
    out, err, ready = os.pipe(), os.pipe(), os.pipe()
    try:
        pid = _spawn(path, _list_arguments(parts), container, namespace, (out[0], err[0], ready[1]))
    except OSError as error:
        for descriptor in (*out, *err, *ready):
            os.close(descriptor)
        raise HostError(f"{path}, a logger, did not start: {error.strerror}") from error
    for descriptor in (out[0], err[0], ready[1]):
        os.close(descriptor)
    logger = Logger(path, pid, out[1], err[1])
    try:
        await logger.wait_ready(ready[0], strict=parts.scheme == "binary-v2")
    except BaseException:
        os.close(out[1])
        os.close(err[1])
        logger.kill()
        raise
    finally:
        os.close(ready[0])
    return logger


def _list_arguments(parts: SplitResult) -> list[str]:
    """Return each key of the query with its first value."""
    values: dict[str, str] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        values.setdefault(key, value)
    return [word for pair in values.items() for word in pair]


def _spawn(path: str, arguments: list[str], container: str, namespace: str, descriptors: tuple[int, ...]) -> int:
    # Moved out of the way first: to put one in its place may close another that is there.
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _SPARE) for descriptor in descriptors]
    actions: list[tuple[int, int, int]] = [
        (os.POSIX_SPAWN_DUP2, descriptor, _FIRST + place) for place, descriptor in enumerate(moved)
    ]
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    actions += [(os.POSIX_SPAWN_DUP2, null, number) for number in range(_FIRST)]
    environment = {"CONTAINER_ID": container, "CONTAINER_NAMESPACE": namespace}
    try:
        return os.posix_spawn(path, [path, *arguments], environment, file_actions=actions, setsigmask=[])
    finally:
        for descriptor in (*moved, null):
            os.close(descriptor)
