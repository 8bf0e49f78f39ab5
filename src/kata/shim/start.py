"""`start`: have a shim for the container's sandbox, and tell its address.

containerd waits for this process, so nothing is imported that is not needed, and the daemon is ready to be connected to
as soon as its socket listens: it need not even run yet.
"""

from __future__ import annotations

import os
import sys
from _socket import socket

from kata.errors import ExistsError, HostError, KataError
from kata.protocol.oci.pod import Role
from kata.shim.address import SOCKET_ROOT, find_path, is_answered, make_address, open_socket, write_word
from kata.shim.bootstrap import Bootstrap, format_answer, parse_input, read_input
from kata.shim.bundle import find_place
from kata.shim.flags import Invocation

LISTENER = 3
"""The descriptor on which the daemon finds its listening socket."""

MOUNTS = 4
"""The descriptor on which a daemon that has waited finds the engine's mount namespace."""

_SCHED_CORE_VARIABLE = "SCHED_CORE"
_TTRPC_VARIABLE = "TTRPC_ADDRESS"

POOL = "/run/kata/pool"
"""Where VMs wait; see kata.sandbox.pool."""

_LAUNCHER = "import sys; sys.path.insert(0, {!r}); from kata.shim.main import main; sys.exit(main())"


def start(invocation: Invocation) -> int:
    """Start a daemon, or find that of the container's pod, and print the address."""
    container, namespace = invocation.require("id"), invocation.require("namespace")
    bootstrap = parse_input(read_input(0), container, namespace, os.environ)
    bundle = os.path.abspath(invocation.texts["bundle"] or os.getcwd())
    role, sandbox = find_place(bundle, container)
    root = bootstrap.socket_dir or SOCKET_ROOT
    address = make_address(invocation.texts["address"], namespace, sandbox, root)
    if role is not Role.MEMBER:
        listener = bind_address(address)
        try:
            pid = _spawn_daemon(invocation, bootstrap, bundle, find_path(address), listener.fileno())
        finally:
            listener.close()
        write_word(f"{bundle}/shim.pid", str(pid))
    write_word(f"{bundle}/address", address)
    sys.stdout.buffer.write(format_answer(bootstrap.form, address, bundle))
    return 0


def bind_address(address: str) -> socket:
    """Listen at an address. What a dead shim left there is replaced; raise ExistsError where one lives."""
    path = find_path(address)
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    listener = open_socket()
    try:
        try:
            listener.bind(path)
        except OSError as error:
            if is_answered(address):
                raise ExistsError(f"a shim listens at {address} already") from error
            if os.path.exists(path):
                os.unlink(path)
            listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise HostError(f"the shim cannot listen at {address}: {error.strerror}") from error
    except BaseException:
        listener.close()
        raise
    return listener


def _spawn_daemon(invocation: Invocation, bootstrap: Bootstrap, bundle: str, path: str, listener: int) -> int:
    """Start the daemon in a session of its own. It has none of our streams: containerd waits for their end.

    On its standard input it finds the runtime's options.
    """
    log = _open_log(bundle)
    words: list[str] = []
    for name in ("address", "namespace", "id", "publish-binary"):
        words += [f"-{name}", invocation.texts[name]]
    words += ["-bundle", bundle, "-socket", path]
    if bootstrap.debug or "debug" in invocation.switches:
        words.append("-debug")
    environment = {**os.environ}
    if bootstrap.ttrpc_address:
        environment[_TTRPC_VARIABLE] = bootstrap.ttrpc_address
    if environment.get(_SCHED_CORE_VARIABLE):
        from kata.sys.schedcore import enter_new_core_group  # noqa: PLC0415 - imports ctypes, which few need

        enter_new_core_group()
    options = os.memfd_create("options")
    try:
        os.write(options, bootstrap.options)
        os.lseek(options, 0, os.SEEK_SET)
        if os.path.exists(POOL):
            descriptors = {0: options, 1: log, 2: log, LISTENER: listener}
            pid = _take_from_pool(invocation, bootstrap, bundle, words, environment, descriptors)
            if pid:
                return pid
        command = [*_find_command(), *words]
        return os.posix_spawn(
            command[0],
            command,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, options, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
                (os.POSIX_SPAWN_DUP2, listener, LISTENER),
            ],
            setsid=True,
            setsigmask=[],
        )
    finally:
        os.close(options)
        os.close(log)


def _take_from_pool(
    invocation: Invocation,
    bootstrap: Bootstrap,
    bundle: str,
    words: list[str],
    environment: dict[str, str],
    descriptors: dict[int, int],
) -> int:
    """Return the pid of a daemon that has waited with a VM, 0 where there is none; then `environment` says why."""
    from kata.sandbox.pool import REMARK, Offer, hand_over  # noqa: PLC0415 - only where there is a pool
    from kata.shim.options import VARIABLE, ConfigChoice  # noqa: PLC0415 - the same

    if environment.get(_SCHED_CORE_VARIABLE):
        environment[REMARK] = "SCHED_CORE is set, and what waits shares no scheduling group"
        return 0
    mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        config = ""
        if invocation.flavour or bootstrap.options or environment.get(VARIABLE):
            config = ConfigChoice(invocation.flavour, bootstrap.options).find(None, None) or ""
        numbers = {**descriptors, MOUNTS: mounts}
        offer = Offer("shim", [sys.argv[0], *words], environment, numbers, bundle=bundle, config=config)
        pid, environment[REMARK] = hand_over(os.path.dirname(POOL), offer)
    except KataError as error:
        pid, environment[REMARK] = 0, str(error)
    finally:
        os.close(mounts)
    return pid


def _open_log(bundle: str) -> int:
    """Open the FIFO whose lines containerd shows as its own, if it reads there: once, since the first close ends it."""
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(f"{bundle}/log", flags)
    except OSError:
        return os.open(os.devnull, flags)


def _find_command() -> list[str]:
    """Return how to run this program again."""
    launcher = os.path.abspath(sys.argv[0])
    if os.path.basename(launcher).startswith("containerd-shim") and os.access(launcher, os.X_OK):
        return [launcher]
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return [sys.executable or "/usr/bin/python3", "-IS", "-c", _LAUNCHER.format(package)]
