"""Starting the daemon of a sandbox."""

import contextlib
import os
import select
import signal
import socket
import sys

from kata.cli.invocation import Invocation
from kata.cli.records import find_sandbox_dir
from kata.errors import ExistsError
from kata.transport.ttrpc_blocking import bind_unix_socket

_PASSED_ON = ("debug", "systemd-cgroup", "rootless")
_LAUNCHER = "import sys; sys.path.insert(0, {!r}); from kata.cli.main import main; sys.exit(main())"
_END_TIMEOUT = 10.0
_LAST_WORDS_TIMEOUT = 2.0


class Daemon:
    """A daemon that this command started, to be ended by it if the start fails."""

    __slots__ = ("_pid", "_root", "_sandbox")

    def __init__(self, pid: int, root: str, sandbox: str) -> None:
        self._pid = pid
        self._root = root
        self._sandbox = sandbox

    def explain(self) -> str | None:
        """What it wrote last, for an error that says no more than that it went away; None when it wrote nothing.

        Call before `end`, which removes what it wrote. Its sockets close before it writes why.
        """
        with contextlib.suppress(OSError):
            ended = os.pidfd_open(self._pid)
            select.select([ended], [], [], _LAST_WORDS_TIMEOUT)
            os.close(ended)
        with contextlib.suppress(OSError), open(find_log(self._root, self._sandbox), encoding="utf-8") as log:
            lines = [line.strip() for line in log if line.strip()]
            return f"its daemon said: {lines[-1]}" if lines else None
        return None

    def end(self) -> None:
        """Give the daemon time to clear up by itself, then kill it; release what it left in either case."""
        from kata.sandbox.collect import release_sandbox  # noqa: PLC0415 - only after a failure

        with contextlib.suppress(ProcessLookupError):
            ended = os.pidfd_open(self._pid)
            try:
                for number in (signal.SIGTERM, signal.SIGKILL):
                    signal.pidfd_send_signal(ended, number)
                    if select.select([ended], [], [], _END_TIMEOUT)[0]:
                        break
            finally:
                os.close(ended)
        with contextlib.suppress(ChildProcessError):  # one that had waited in the pool is nobody's child here
            os.waitpid(self._pid, os.WNOHANG)
        release_sandbox(self._root, self._sandbox)


class Origin:
    """What a sandbox goes on from: the directory of a checkpoint, as a copy beside the one that was saved or not."""

    __slots__ = ("copy", "directory")

    def __init__(self, directory: str, *, copy: bool = False) -> None:
        self.directory = directory
        self.copy = copy


def start_daemon(
    invocation: Invocation, sandbox: str, bundle: str, network: int | None, origin: Origin | None = None
) -> Daemon:
    """Make the sandbox's directory and its sockets, and start the daemon on them. Raise ExistsError on a taken name.

    The sockets are listening before the daemon runs, so a client can connect at once and merely waits. `network` is a
    descriptor of the pod's network namespace, None for the host's. With an `origin` the sandbox goes on from that.
    """
    directory = find_sandbox_dir(invocation.root, sandbox)
    os.makedirs(os.path.dirname(directory), mode=0o700, exist_ok=True)
    try:
        os.mkdir(directory, mode=0o700)
    except FileExistsError:
        raise ExistsError(
            "container with given ID already exists",
            hint=f"{directory} exists; if no container {sandbox} is listed, run kata-runtime gc",
        ) from None
    try:
        with (
            bind_unix_socket(f"{directory}/service.sock", socket.SOCK_STREAM) as service,
            bind_unix_socket(f"{directory}/init.sock", socket.SOCK_SEQPACKET) as init,
        ):
            words = [*list_flags(invocation), "serve", "--sandbox", sandbox, "--bundle", bundle]
            words += ["--service-fd", str(service.fileno()), "--init-fd", str(init.fileno())]
            words += ["--creator", str(os.getpid())]
            if origin is not None:
                words += ["--origin", origin.directory, *(["--copy"] if origin.copy else [])]
            kept = [service.fileno(), init.fileno()]
            if network is not None:
                words += ["--network-fd", str(network)]
                kept.append(network)
            log = find_log(invocation.root, sandbox)
            pid, remark = 0, ""
            if origin is None and os.path.exists(f"{invocation.root}/pool"):
                pid, remark = _take_from_pool(invocation, words, kept, log, bundle)
            if not pid:
                pid = _spawn([*_find_program(), *words], tuple(kept), log, remark)
    except BaseException:
        from kata.sys.tree import remove_tree  # noqa: PLC0415 - only after a failure

        with contextlib.suppress(OSError):
            remove_tree(directory)
        raise
    return Daemon(pid, invocation.root, sandbox)


def find_log(root: str, sandbox: str) -> str:
    """Return where the daemon of a sandbox writes what it has no better place for."""
    return f"{find_sandbox_dir(root, sandbox)}/service.log"


def find_command(invocation: Invocation) -> list[str]:
    """Return how to run this program again with the same global flags: a command may be appended."""
    return [*_find_program(), *list_flags(invocation)]


def _find_program() -> list[str]:
    launcher = os.path.abspath(sys.argv[0])
    if os.path.basename(launcher).startswith("kata-runtime") and os.access(launcher, os.X_OK):
        return [launcher]
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return [sys.executable or "/usr/bin/python3", "-IS", "-c", _LAUNCHER.format(package)]


def list_flags(invocation: Invocation) -> list[str]:
    """Return the global flags of this program, as it was given them."""
    command = ["--root", os.path.abspath(invocation.root)]
    for name in _PASSED_ON:
        value = invocation.globals[name]
        if value:
            command.append(f"--{name}={'true' if value is True else value}")
    config = find_configuration(invocation)
    if config:
        command.append(f"--config={config}")
    return command


def find_configuration(invocation: Invocation) -> str:
    """Return the path of the configuration that the flags name, or an empty string."""
    config = str(invocation.globals["config"] or invocation.globals["kata-config"])
    return os.path.abspath(config) if config else ""


def _take_from_pool(
    invocation: Invocation, words: list[str], kept: list[int], log: str, bundle: str
) -> tuple[int, str]:
    """Return the pid of a daemon that has waited with a VM, or 0 and why there is none."""
    from kata.sandbox.pool import Offer, hand_over  # noqa: PLC0415 - only where there is a pool

    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        descriptors = {0: null, 1: output, 2: output, **{number: number for number in kept}}
        program = [os.path.abspath(sys.argv[0]), *words]
        config = find_configuration(invocation)
        offer = Offer("cli", program, os.environ, descriptors, bundle=bundle, config=config)
        return hand_over(invocation.root, offer)
    finally:
        os.close(null)
        os.close(output)


def _spawn(command: list[str], kept: tuple[int, ...], log: str, remark: str) -> int:
    """Start a process in a session of its own that holds standard streams and `kept` and nothing else of ours.

    An engine's pipes must not reach the daemon: the engine waits for their end. `remark` is why it has no VM that
    waited.
    """
    close_on_exec(kept)
    return os.posix_spawn(
        command[0],
        command,
        {**os.environ, "KATA_NOT_FROM_POOL": remark} if remark else os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
    )


def close_on_exec(kept: tuple[int, ...]) -> None:
    """Mark every descriptor from 3 on to be closed on exec, except `kept`, which an exec'd program shall have."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2:
            with contextlib.suppress(OSError):  # the listing's own descriptor is closed by now
                os.set_inheritable(descriptor, descriptor in kept)
