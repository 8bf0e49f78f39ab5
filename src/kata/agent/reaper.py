"""The only caller of wait: children that the agent started, and orphans that PID 1 inherits.

crun's children become ours when crun exits, and a short one may be gone before its pid is known. So while a crun is
under way the statuses of strangers are kept until somebody asks; at other times they are dropped.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from kata.errors import DeadlineError, HostError


class Reaper:
    """Collects exit statuses. A status is 0..255, or 128 + the number of the signal that killed the process."""

    def __init__(self) -> None:
        self._watched: dict[int, asyncio.Future[int]] = {}
        self._strangers: dict[int, int] = {}
        self._expecting = 0

    def start(self) -> None:
        """Begin to reap. Call in the event loop's thread."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self.reap)
        self.reap()

    def stop(self) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)

    def reap(self) -> None:
        """Collect everything that has exited.

        Look first, collect after: until waitid without WNOWAIT the pid cannot be given to another process, so whoever
        is told of an exit here has let go of the pid before it can mean something else.
        """
        while True:
            try:
                peeked = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if peeked is None:
                return
            pid = peeked.si_pid
            status = peeked.si_status if peeked.si_code == os.CLD_EXITED else 128 + peeked.si_status
            watched = self._watched.pop(pid, None)
            if watched is not None:
                if not watched.done():
                    watched.set_result(status)
            elif self._expecting:
                self._strangers[pid] = status
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)

    def watch(self, pid: int) -> "asyncio.Future[int]":
        """A future of the status of a child, or of an orphan that appeared inside `expect_orphans`."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if pid in self._strangers:
            future.set_result(self._strangers.pop(pid))
        else:
            self._watched[pid] = future
        return future

    @contextmanager
    def expect_orphans(self) -> Iterator[None]:
        """Keep the statuses of unknown processes while the block runs."""
        self._expecting += 1
        try:
            yield
        finally:
            self._expecting -= 1
            if not self._expecting:
                self._strangers.clear()

    def spawn(
        self, argv: list[str], *, stdio: tuple[int, int, int], program: str = ""
    ) -> "tuple[int, asyncio.Future[int]]":
        """Start a program with three descriptors of ours, in a session of its own. Return its pid and status.

        Every other descriptor of the agent is close-on-exec. `program` is the file, where it is not what `argv` names.
        Raise HostError when it cannot be started.
        """
        actions: list[tuple[object, ...]] = [
            (os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(stdio)
        ]
        return self._spawn(argv, actions, program)

    def spawn_on_terminal(self, argv: list[str], terminal: str) -> "tuple[int, asyncio.Future[int]]":
        """Start a program whose controlling terminal is the device node: the first that a new session opens."""
        opened = (os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0)
        return self._spawn(argv, [opened, (os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)])

    def _spawn(
        self, argv: list[str], actions: "list[tuple[object, ...]]", program: str = ""
    ) -> "tuple[int, asyncio.Future[int]]":
        try:
            pid = os.posix_spawnp(
                program or argv[0],
                argv,
                os.environ,
                file_actions=actions,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGCHLD, signal.SIGXFSZ),
                setsid=True,
            )
        except OSError as error:
            raise HostError(f"{argv[0]} cannot be started in the guest: {error.strerror}") from error
        return pid, self.watch(pid)

    async def run(self, argv: list[str], *, stdio: tuple[int, int, int], timeout: float, program: str = "") -> int:
        """Run a program to its end and return its status. It is killed when it takes over `timeout` seconds."""
        pid, status = self.spawn(argv, stdio=stdio, program=program)
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(status)
        except (TimeoutError, asyncio.CancelledError) as error:
            if not status.done():
                os.kill(pid, signal.SIGKILL)
            if isinstance(error, TimeoutError):
                raise DeadlineError(f"{argv[0]} did not end within {timeout:g} s and was killed") from error
            raise
