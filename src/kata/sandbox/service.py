"""The daemon of a sandbox: `kata.sandbox.v1.Sandbox` on a Unix socket, for as long as there is a container."""

import asyncio
import os
import signal
import socket
from contextlib import suppress

from kata.observe.log import Log
from kata.protocol.oci.network import find_network_namespace
from kata.protocol.ttrpc.engine import Call
from kata.sandbox import store
from kata.sandbox.attach import AttachServer
from kata.sandbox.bundle import read_bundle
from kata.sandbox.calls import list_services
from kata.sandbox.network import PodNamespace
from kata.sandbox.sandbox import Sandbox
from kata.sys.namespace import enter_private_mount_namespace
from kata.sys.tree import remove_tree
from kata.transport.clients import Clients
from kata.transport.loop import has_kept_loop, run_in_loop
from kata.transport.readiness import wait_readable
from kata.transport.ttrpc import ServerConnection

_FIRST_CONTAINER_TIMEOUT = 120.0

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.sandbox.restoring import Origin


def serve(
    *,
    root: str,
    sandbox: str,
    bundle: str,
    service_fd: int,
    init_fd: int,
    config: str | None,
    network_fd: int = -1,
    creator: int = 0,
    origin: str = "",
    copy: bool = False,
) -> int:
    """Run the daemon until the sandbox is gone; return the exit code.

    `service_fd` and `init_fd` are listening sockets in the sandbox's directory. `bundle` is the first container's.
    `network_fd` is the pod's network namespace, -1 where it is the host's.
    `creator` is the pid of the parent, which is going to ask for that container; 0 when anybody may.
    `origin` is the directory of a checkpoint that the sandbox goes on from, with `copy` beside the one that was saved.
    """
    directory = store.find_sandbox_dir(root, sandbox)
    lock = store.lock_sandbox(directory)
    try:
        if not has_kept_loop():  # a process that waited has mounts of its own since it began
            enter_private_mount_namespace()
        # Otherwise the ledger in the directory is what `gc` releases the rest by.
        going_on = None
        if origin:
            from kata.sandbox.restoring import Origin  # noqa: PLC0415 - few sandboxes were saved

            going_on = Origin(origin, copy)
        if run_in_loop(_run(root, sandbox, bundle, service_fd, init_fd, config, network_fd, creator, going_on)):
            with suppress(OSError):
                remove_tree(directory)
    finally:
        os.close(lock)
    return 0


async def _run(
    root: str,
    sandbox_id: str,
    bundle: str,
    service_fd: int,
    init_fd: int,
    config: str | None,
    network_fd: int,
    creator: int,
    origin: "Origin | None",
) -> bool:
    """Serve until the sandbox is gone; say whether nothing of it is left."""
    loop = asyncio.get_running_loop()
    log = Log(sandbox_id, "sandbox")
    attachments = AttachServer(socket.socket(fileno=init_fd))
    accepting = asyncio.create_task(attachments.run())
    sandbox = Sandbox(root, sandbox_id, attachments, log)
    namespace = None
    if network_fd >= 0:
        os.set_inheritable(network_fd, False)
        namespace = PodNamespace(network_fd, find_network_namespace(read_bundle(bundle).spec) or "")
    sandbox.start(bundle, config, namespace, origin=origin)
    services = list_services(sandbox)

    def log_error(call: Call, error: Exception) -> None:
        log.write("error", f"{call.method} failed", error=repr(error))

    clients = Clients(lambda: ServerConnection(services, log_error, on_done=sandbox.durations.note))
    stopping: list[asyncio.Task[None]] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: stopping.append(asyncio.create_task(sandbox.stop())))
    # Not create_unix_server: since Python 3.13 that looks up the path the socket was bound by, to unlink it in the end,
    # and the command line bound it by way of a descriptor of its own.
    server = await loop.create_server(clients.welcome, sock=socket.socket(fileno=service_fd))
    watch = asyncio.create_task(_end_unused(sandbox, creator))
    await sandbox.gone.wait()
    server.close()
    watch.cancel()
    accepting.cancel()
    await clients.take_leave()
    return sandbox.is_released


async def _end_unused(sandbox: Sandbox, creator: int) -> None:
    """End a sandbox that nobody came to use: the command that started the daemon died before its first call."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_FIRST_CONTAINER_TIMEOUT):
            await _wait_for_parent(creator)
    if not sandbox.is_used():
        await sandbox.stop()


async def _wait_for_parent(pid: int) -> None:
    """Wait for the end of the command that has started or taken this process; for ever where its pid is 0."""
    if not pid:
        await asyncio.Event().wait()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # A parent that is another has ended, and its pid is somebody else's. Who took this process is no parent of it.
        if os.getppid() == pid or has_kept_loop():
            await wait_readable(descriptor)
    finally:
        os.close(descriptor)
