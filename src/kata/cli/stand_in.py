"""The stand-in: the host process that is a container's process as far as an engine can see.

Engines own a container's process by its pid: they wait for it, read its exit code, signal it and give it a terminal.
The true process is in a guest, so a small one stands in for it. It hands its standard streams to the sandbox's daemon,
forwards signals and the terminal's size, and ends with the exit code that the daemon reports. To kill it is to kill the
process in the guest. It is either forked off by `create` and `exec --detach`, or is the foreground command itself.

Messages are JSON over SOCK_SEQPACKET, one a packet; kata.sandbox.attach is the other end.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import termios

from kata.cli.terminal import read_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

LOST = 255
"""Exit code when the daemon goes away without saying how the process ended."""

_MESSAGE_SIZE = 4096
_NAME = "kata-stand-in"
_KEPT_BACK = frozenset(
    {
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGCHLD,
        signal.SIGURG,
        signal.SIGPIPE,
        # Job control is between this process and its shell.
        signal.SIGCONT,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        # Faults are this process's own.
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGILL,
        signal.SIGFPE,
        signal.SIGTRAP,
        signal.SIGSYS,
        signal.SIGABRT,
    }
)


class StandIn:
    """The stand-in's end of the connection, in the process that stands in. `terminal` is a descriptor or None.

    While entered, signals are collected instead of ending the process.
    """

    def __init__(self, connection: socket.socket, terminal: int | None) -> None:
        self._connection = connection
        self._terminal = terminal
        self._wakeup = (-1, -1)
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
        for number in signal.valid_signals() - _KEPT_BACK:
            self._handlers[number] = signal.signal(number, _note)
        return self

    def __exit__(self, *_failure: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(-1)
        for descriptor in self._wakeup:
            os.close(descriptor)

    def follow(self) -> int:
        """Forward signals and sizes until the daemon reports the exit code, and return it; LOST where it goes away."""
        self._send_size()
        poller = select.poll()
        poller.register(self._connection, select.POLLIN)
        poller.register(self._wakeup[0], select.POLLIN)
        while True:
            for descriptor, _ in poller.poll():
                if descriptor == self._wakeup[0]:
                    self._forward(os.read(descriptor, 256))
                else:
                    return receive_exit(self._connection)

    def _forward(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self._send_size()
            else:
                self._send({"signal": number})

    def _send_size(self) -> None:
        if self._terminal is not None:
            with contextlib.suppress(OSError):  # the engine has closed its end
                rows, columns = read_size(self._terminal)
                if rows and columns:
                    self._send({"resize": [rows, columns]})

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next read tells how it ended
            self._connection.send(json.dumps(message).encode(), socket.MSG_NOSIGNAL)


def _note(_number: int, _frame: object) -> None:
    """Do nothing: the wake-up descriptor got the number already."""


def receive_exit(connection: socket.socket) -> int:
    try:
        data = connection.recv(_MESSAGE_SIZE)
    except OSError:
        return LOST
    if not data:
        return LOST
    return int(json.loads(data)["exit"]) & 0xFF


def send_hello(
    connection: socket.socket, container: str, exec_id: str, terminal: int | None, proc: int | None = None
) -> None:
    """Introduce this process to the daemon and hand over its standard streams, or the terminal, and its own /proc."""
    hello: dict[str, Any] = {"container": container, "exec": exec_id, "terminal": terminal is not None}
    hello |= {"pid": os.getpid(), "proc": proc is not None}
    streams = [0, 1, 2] if terminal is None else [terminal]
    socket.send_fds(connection, [json.dumps(hello).encode()], streams if proc is None else [*streams, proc])


def fork_stand_in(
    connection: socket.socket, container: str, exec_id: str, slave: int | None, network: int | None = None
) -> int:
    """Fork the stand-in and return its pid. It has its own connection and slave: the caller closes these.

    It goes to live in the `network` namespace, where engines look for the container's links by its pid.
    """
    pid = os.fork()
    if pid:
        return pid
    code = LOST
    try:
        if network is not None:
            from kata.network.namespace import enter_namespace  # noqa: PLC0415 - ctypes, for containers only

            enter_namespace(network)
        code = _stand_in(connection, container, exec_id, slave)
    finally:
        os._exit(code)


def _stand_in(connection: socket.socket, container: str, exec_id: str, slave: int | None) -> int:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.setsid()
    os.chdir("/")
    terminal = None
    if slave is not None:
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for stream in (0, 1, 2):
            os.dup2(slave, stream)
        terminal = 0
    # The engine waits for the end of pipes that it did not mean for the container: hold nothing but what is needed.
    kept = connection.fileno()
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
        comm.write(_NAME)
    connection.setblocking(True)
    proc = None if exec_id else _cover_proc()
    with StandIn(connection, terminal) as stand_in:
        send_hello(connection, container, exec_id, terminal, proc)
        if proc is not None:
            os.close(proc)
        if terminal is None:
            _let_go_of_streams()
        return stand_in.follow()


def _cover_proc() -> int | None:
    """Put an empty file system on /proc of a mount namespace of our own and return its directory.

    Who enters this namespace to list a container's processes (`podman top`) would find the host's otherwise. Without
    the privilege to do so the namespace stays the host's.
    """
    from kata.sys import linux, namespace  # noqa: PLC0415 - ctypes: not on the path of the process that forks

    try:
        namespace.enter_private_mount_namespace()
        linux.mount("kata", "/proc", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, "size=8m,mode=555")
        return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


def _let_go_of_streams() -> None:
    """Leave the daemon as the only holder, so that whoever reads the process's output sees its end when it ends."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
