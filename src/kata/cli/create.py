"""`create`: a sandbox where there is none yet, a container in it, and a process on the host that stands for it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

from kata.cli.bundle import Bundle, open_bundle
from kata.cli.container_id import check_id
from kata.cli.daemon import Daemon, Origin, start_daemon
from kata.cli.invocation import Invocation
from kata.cli.pid_file import write_pid_file
from kata.cli.records import find_record_path, find_sandbox_dir
from kata.cli.service import CONNECT_TIMEOUT, CREATE_TIMEOUT, open_service
from kata.cli.stand_in import fork_stand_in
from kata.cli.terminal import open_terminal_pair
from kata.errors import Code, ExistsError, GuestError, HostError, KataError, NotFoundError, UnsupportedError, UsageError
from kata.protocol.messages.sandbox import CreateContainerRequest, DeleteContainerRequest
from kata.protocol.messages.types import Empty
from kata.protocol.oci.network import find_network_namespace
from kata.protocol.oci.pod import Role, find_role, find_sandbox_id
from kata.transport.ttrpc_blocking import connect_unix_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def run_create(invocation: Invocation) -> int:
    refuse_preserved_files(invocation)
    bundle = open_bundle(invocation.text("bundle"))
    console = invocation.text("console-socket")
    check_console(console, terminal=bundle.terminal, detached=True)
    with raise_on_signals():
        create_detached(invocation, bundle, invocation.arguments[0])
    return 0


def refuse_preserved_files(invocation: Invocation) -> None:
    """Raise UnsupportedError where open files beyond the standard streams are to be passed: none reaches into a VM."""
    if invocation.number("preserve-fds"):
        raise UnsupportedError(
            "--preserve-fds cannot be honoured: an open file of the host does not reach into a VM",
            hint="bind the file or the directory of the socket instead",
        )


def check_console(console: str, *, terminal: bool, detached: bool) -> None:
    """Raise UsageError where the console socket and the terminal wanted do not fit each other, in runc's words."""
    if detached and terminal and not console:
        raise UsageError("cannot allocate tty if kata-runtime will detach without setting console socket")
    if console and not (detached and terminal):
        raise UsageError("cannot use console socket if kata-runtime will not detach or allocate tty")


class Creation:
    """A container under creation: what was made so far, so that a failure can take it back."""

    def __init__(self, invocation: Invocation, bundle: Bundle, container: str, origin: Origin | None = None) -> None:
        self.container = check_id(container)
        self.root = invocation.root
        self.bundle = bundle
        self._invocation = invocation
        annotations = bundle.spec.get("annotations") or {}
        self.sandbox = find_sandbox_id(annotations, container)
        self._joins = find_role(annotations) is Role.MEMBER
        self._origin = origin
        if origin is not None and self._joins:
            raise UnsupportedError(f"container {container} is one of a pod's, and cannot be restored by itself")
        self._daemon: Daemon | None = None
        self._asked = False
        self.network: int | None = None
        """The container's network namespace, for whoever stands in for it; None for the host's."""

    def open_sandbox(self) -> socket.socket:
        """Start the sandbox's daemon unless the container joins one, and return a connection for the stand-in."""
        if os.path.exists(find_record_path(self.root, self.container)):
            raise ExistsError("container with given ID already exists")
        self.network = _open_network(self.bundle.spec)
        if not self._joins:
            self._daemon = start_daemon(self._invocation, self.sandbox, self.bundle.path, self.network, self._origin)
        elif not os.path.isdir(find_sandbox_dir(self.root, check_id(self.sandbox))):
            raise NotFoundError(f"sandbox {self.sandbox} of container {self.container} does not exist")
        return connect_init(self.root, self.sandbox)

    def create(self, pid: int) -> None:
        """Have the daemon create the container that process `pid` stands for."""
        request = CreateContainerRequest(container_id=self.container, bundle=self.bundle.path, pid=pid)
        with open_service(self.root, self.sandbox) as service:
            self._asked = True
            try:
                service.call("CreateContainer", request, Empty, timeout=CREATE_TIMEOUT)
            except ExistsError:
                self._asked = False  # what exists is not ours to undo
                raise
            except GuestError as error:
                if error.hint is None and error.status == Code.UNAVAILABLE and self._daemon is not None:
                    error.hint = self._daemon.explain()
                raise

    def undo(self) -> None:
        """Take back what was made: the container, and the sandbox if this command started it."""
        if self._daemon is not None:
            self._daemon.end()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(find_record_path(self.root, self.container))
        elif self._asked:
            request = DeleteContainerRequest(container_id=self.container, force=True)
            with contextlib.suppress(KataError), open_service(self.root, self.sandbox) as service:
                service.call("DeleteContainer", request, Empty)


def _open_network(spec: dict[str, Any]) -> int | None:
    """Return a descriptor of the network namespace that a container is to have, None for the host's."""
    path = find_network_namespace(spec)
    if path is None:
        return None
    from kata.network.namespace import open_namespace  # noqa: PLC0415 - ctypes: not for those without a network

    return open_namespace(path)


def connect_init(root: str, sandbox: str) -> socket.socket:
    """Connect to where stand-ins introduce themselves. Raise HostError where nobody listens."""
    path = f"{find_sandbox_dir(root, sandbox)}/init.sock"
    try:
        return connect_unix_socket(path, socket.SOCK_SEQPACKET, timeout=CONNECT_TIMEOUT)
    except OSError as error:
        raise HostError(f"the service of sandbox {sandbox} cannot be reached at {path}: {error.strerror}") from error


def create_detached(invocation: Invocation, bundle: Bundle, container: str, origin: Origin | None = None) -> None:
    """Create a container with a forked stand-in and write the pid file. On failure nothing stays behind."""
    creation = Creation(invocation, bundle, container, origin)
    pid = 0
    slave = open_terminal_pair(invocation.text("console-socket")) if bundle.terminal else None
    try:
        with creation.open_sandbox() as connection:
            pid = fork_stand_in(connection, creation.container, "", slave, creation.network)
        if slave is not None:
            os.close(slave)
        creation.create(pid)
        if invocation.text("pid-file"):
            write_pid_file(invocation.text("pid-file"), pid)
    except BaseException:
        kill_stand_in(pid)
        creation.undo()
        raise


def kill_stand_in(pid: int) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


@contextlib.contextmanager
def raise_on_signals() -> Iterator[None]:
    """Turn SIGTERM, SIGHUP and SIGINT into KeyboardInterrupt, so that a creation under way is undone."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
