"""The stand-in: the host process whose pid is a container's for containerd and its clients.

They look into /proc/PID, and open files by /proc/PID/root: `nerdctl cp` and `docker cp` do. There they must find the
container's root and nothing else of this host. The process is cat(1), as it costs a fifth of a megabyte where a copy of
this one costs eight, ends by itself when this one does, and answers: what it has echoed once, it runs without opening
another file. Only then does its root become the container's, which may hold whatever its image's maker has put there
in place of libraries.
"""

import asyncio
import os
import select
import socket
import subprocess
from collections.abc import Callable, Coroutine

from kata.errors import HostError
from kata.sys import linux
from kata.sys.mount import attach_tree, clone_tree, visit_copy_of_namespace

_PROGRAM = "/bin/cat"
_TIMEOUT = 10.0
_EXIT_TIMEOUT = 5.0


class StandIn:
    """A running stand-in. Use from one event loop; whoever made it closes it."""

    def __init__(self, process: "subprocess.Popen[bytes]", line: socket.socket) -> None:
        self.pid = process.pid
        self._process = process
        self._line = line
        self._pidfd = os.pidfd_open(process.pid)
        self._loop = asyncio.get_running_loop()
        self._telling: asyncio.Task[None] | None = None

    def follow(self, on_killed: Callable[[], Coroutine[None, None, None]]) -> None:
        """Do `on_killed` if it ends before `close`. Call it once."""

        def tell() -> None:
            self._loop.remove_reader(self._pidfd)
            self._telling = self._loop.create_task(on_killed())

        self._loop.add_reader(self._pidfd, tell)

    def close(self) -> None:
        """End it, and with it its mounts. May be repeated. Raise HostError when the kernel does not let go of it."""
        if self._pidfd < 0:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._line.close()
        _end(self._process)


def start_stand_in(container: str, root: str, *, readonly: bool) -> StandIn:
    """Start one whose root is the directory `root` with what is mounted there, in this process's other namespaces.

    Its environment names the container, for whoever meets it in a list of processes. Raise HostError that says what
    failed; nothing is left then.
    """
    line, theirs = socket.socketpair()
    try:
        with theirs:
            process = visit_copy_of_namespace(lambda: _start(container, root, line, theirs, readonly=readonly))
    except OSError as error:
        line.close()
        raise HostError(f"no process of this host can stand for container {container}: {error}") from error
    except BaseException:
        line.close()
        raise
    return StandIn(process, line)


def _start(
    container: str, root: str, line: socket.socket, theirs: socket.socket, *, readonly: bool
) -> "subprocess.Popen[bytes]":
    ends = theirs.fileno()
    told = {"KATA_CONTAINER": container}
    process = subprocess.Popen([_PROGRAM], stdin=ends, stdout=ends, stderr=subprocess.DEVNULL, cwd="/", env=told)
    try:
        line.send(b".")
        if not select.select([line], [], [], _TIMEOUT)[0]:
            raise HostError(f"{_PROGRAM} did not answer within {_TIMEOUT:g} s")
        line.recv(1)
        _pivot(root, readonly=readonly)
    except BaseException:
        _end(process)
        raise
    return process


def _pivot(root: str, *, readonly: bool) -> None:
    """Make `root` the root of this thread and of the process that it has started, and let go of all other mounts."""
    tree = clone_tree(root)
    try:
        place = os.open(root, os.O_PATH | os.O_CLOEXEC)
        try:
            attach_tree(tree, place, readonly=readonly)
        finally:
            os.close(place)
        os.fchdir(tree)
    finally:
        os.close(tree)
    linux.pivot_root(".", ".")
    linux.umount2(".", linux.MNT_DETACH)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    try:
        process.wait(_EXIT_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise HostError(f"process {process.pid} did not end {_EXIT_TIMEOUT:g} s after SIGKILL") from error
