"""The shim's daemon: serves containerd for one sandbox, from its first container until Shutdown."""

import asyncio
import os
import signal
import socket
import stat
from contextlib import suppress

from kata.errors import UsageError
from kata.observe.log import Log
from kata.protocol.messages.streaming import SERVICE as STREAMING_SERVICE
from kata.protocol.ttrpc.engine import Call
from kata.shim.bootstrap import read_input
from kata.shim.enginelog import EngineLog
from kata.shim.fifo import FifoTable
from kata.shim.flags import Invocation
from kata.shim.options import ConfigChoice
from kata.shim.pod import Pod
from kata.shim.publisher import Publisher
from kata.shim.sandbox import SandboxCalls, list_sandbox_services
from kata.shim.start import LISTENER, MOUNTS
from kata.shim.task import TaskCalls, list_services
from kata.sys.namespace import enter_private_mount_namespace
from kata.transport.clients import Clients
from kata.transport.loop import has_kept_loop, run_in_loop
from kata.transport.ttrpc_stream import StreamingConnection

_FIRST_CONTAINER_TIMEOUT = 120.0
_FAREWELL_TIMEOUT = 5.0


def serve(invocation: Invocation) -> int:
    """Run until containerd says Shutdown; return the exit code. The listening socket is descriptor 3."""
    sandbox, namespace = invocation.require("id"), invocation.require("namespace")
    try:
        listening = stat.S_ISSOCK(os.fstat(LISTENER).st_mode)
    except OSError:
        listening = False
    if not listening:
        raise UsageError("the shim has no listening socket", hint="run it with the action `start`, as containerd does")
    os.set_inheritable(LISTENER, False)
    choice = ConfigChoice(invocation.flavour, read_input(0))
    os.chdir("/")  # whoever unmounts the bundle must not find it busy
    os.umask(0o022)
    if has_kept_loop():  # it has waited in mounts of its own, and the engine's are handed to it
        mounts = MOUNTS
    else:
        mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        enter_private_mount_namespace()
    log = Log(sandbox, "shim", "debug" if "debug" in invocation.switches else "info")
    engine_log = EngineLog(f"{invocation.texts['bundle']}/log")
    try:
        run_in_loop(_run(sandbox, namespace, choice, mounts, log, engine_log))
    finally:
        with suppress(FileNotFoundError):
            os.unlink(invocation.require("socket"))
    return 0


async def _run(
    sandbox: str, namespace: str, choice: ConfigChoice, mounts: int, log: Log, engine_log: EngineLog
) -> None:
    loop = asyncio.get_running_loop()
    fifos = FifoTable(namespace)
    publisher = Publisher(os.environ.get("TTRPC_ADDRESS", ""), namespace, lambda text: log.write("error", text))
    pod = Pod(sandbox, namespace, fifos, choice, log, engine_log, mounts)
    calls = TaskCalls(pod, fifos, publisher, mounts)
    services = {**list_services(calls), **list_sandbox_services(SandboxCalls(pod, calls.note_oom, calls.finished))}
    streams = {STREAMING_SERVICE: {"Stream": fifos.serve_stream}}

    def log_error(call: Call, error: Exception) -> None:
        log.write("error", f"{call.method} failed", error=repr(error))

    def note(method: str, seconds: float) -> None:
        pod.durations.note(method, seconds)
        log.write("debug", f"{method} took {seconds:.3f} s")

    clients = Clients(lambda: StreamingConnection(services, streams, log_error, on_done=note))
    for number in (signal.SIGTERM, signal.SIGINT):  # containers go by Delete only, whatever a service manager sends
        loop.add_signal_handler(number, lambda: None)
    server = await loop.create_server(clients.welcome, sock=socket.socket(fileno=LISTENER))
    tasks = [asyncio.create_task(publisher.run()), asyncio.create_task(_end_unused(calls))]
    await calls.finished.wait()
    server.close()
    await pod.close()
    fifos.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(_FAREWELL_TIMEOUT):
            await publisher.drain()
    await clients.take_leave()
    for task in tasks:
        task.cancel()
    publisher.close()


async def _end_unused(calls: TaskCalls) -> None:
    """End a shim that nobody came to use: containerd died between `start` and Create."""
    await asyncio.sleep(_FIRST_CONTAINER_TIMEOUT)
    if not calls.is_used():
        calls.finished.set()
