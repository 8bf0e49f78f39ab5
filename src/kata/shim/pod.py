"""The sandbox that a shim owns: its directory, its lock, its VM.

Half of what a daemon imports is for its VM. That is imported when the first container comes, so that a call which needs
no VM is answered without it.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress

from kata.errors import ExistsError, StateError
from kata.observe.durations import Durations
from kata.observe.log import Log
from kata.protocol.messages.google import Any
from kata.sandbox import store
from kata.shim.address import write_word
from kata.shim.enginelog import EngineLog
from kata.shim.fifo import FifoTable
from kata.shim.options import ConfigChoice
from kata.sys.tree import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.sandbox.container import Container
    from kata.sandbox.network import PodNamespace
    from kata.sandbox.restoring import Origin
    from kata.sandbox.sandbox import Sandbox


class Pod:
    """Opens the sandbox for the first container, and removes its directory when it is gone."""

    def __init__(
        self,
        sandbox_id: str,
        namespace: str,
        fifos: FifoTable,
        choice: ConfigChoice,
        log: Log,
        engine_log: EngineLog,
        mounts: int,
    ) -> None:
        """`engine_log` gets the lines of `log` too, once standard error no longer leads there but to the sandbox's.

        `mounts` is a descriptor of the engine's mount namespace.
        """
        self.id = sandbox_id
        self._namespace = namespace
        self._key = store.make_key(sandbox_id, namespace)
        self.durations = Durations()
        self._fifos = fifos
        self._choice = choice
        self._log = log
        self._engine_log = engine_log
        self._mounts = mounts
        self.is_lasting = False
        self._sandbox: Sandbox | None = None
        self._follower: asyncio.Task[None] | None = None

    def open(
        self,
        bundle: str,
        options: Any | None,
        on_oom: "Callable[[Container], None]",
        *,
        lasting: bool = False,
        disks: int = 0,
        origin: "Origin | None" = None,
    ) -> "Sandbox":
        """Begin to start the VM for the container of `bundle`; for those after it, return the same sandbox.

        A `lasting` one stays until `close`, also without containers. `disks` is how many hold the container's root.
        With an `origin` the VM goes on from that.
        Raise ExistsError where another daemon has a
        sandbox of this name.
        """
        if self._sandbox is None:
            from kata.sandbox.hostfiles import HostFiles  # noqa: PLC0415 - as the module's text says
            from kata.sandbox.sandbox import Sandbox  # noqa: PLC0415 - the same

            directory = store.find_sandbox_dir(store.DEFAULT_ROOT, self._key)
            lock = self._claim(directory)
            try:
                _write_log_to(f"{directory}/service.log")
                self._log.echo = self._engine_log.write
                config = self._choice.find(options, directory)
                namespace = _open_namespace(bundle)
            except BaseException:
                remove_tree(directory)
                os.close(lock)
                raise
            self._sandbox = Sandbox(
                store.DEFAULT_ROOT,
                self.id,
                self._fifos,
                self._log,
                on_oom,
                namespace=self._namespace,
                durations=self.durations,
                files=HostFiles(self._mounts),
            )
            self._follower = asyncio.create_task(self._follow(self._sandbox, directory, lock))
            self._sandbox.start(bundle, config, namespace, lasting=lasting, disks=disks, origin=origin)
            self.is_lasting = lasting
            write_word(f"{bundle}/monitor_address", f"unix://{self._sandbox.management.path}")
        return self._sandbox

    def require(self) -> "Sandbox":
        """Raise StateError before the first container."""
        if self._sandbox is None:
            raise StateError(f"sandbox {self.id} has no container yet")
        return self._sandbox

    def _claim(self, directory: str) -> int:
        os.makedirs(os.path.dirname(directory), mode=0o700, exist_ok=True)
        try:
            os.mkdir(directory, mode=0o700)
        except FileExistsError as error:
            if store.is_served(directory) or store.is_being_made(directory):
                raise ExistsError(f"a sandbox {self.id} exists already", hint=f"it is in {directory}") from error
            from kata.sandbox.collect import release_sandbox  # noqa: PLC0415 - as the module's text says

            for line in release_sandbox(store.DEFAULT_ROOT, self._key):
                self._log.write("warning", f"left by a crash: {line}")
            os.makedirs(directory, mode=0o700, exist_ok=True)
        return store.lock_sandbox(directory)

    async def _follow(self, sandbox: "Sandbox", directory: str, lock: int) -> None:
        try:
            await sandbox.gone.wait()
        finally:
            if sandbox.is_released:  # otherwise the ledger in it is what `delete` and `gc` release the rest by
                with suppress(OSError):
                    remove_tree(directory)
            os.close(lock)

    async def close(self) -> None:
        """Release everything. May be called again."""
        if self._sandbox is not None and not self._sandbox.gone.is_set():
            await self._sandbox.stop()
        if self._follower is not None:
            await self._follower


def _open_namespace(bundle: str) -> "PodNamespace | None":
    """Open the network namespace that a bundle asks for; None for the host's."""
    from kata.network.namespace import open_namespace  # noqa: PLC0415 - as the module's text says
    from kata.protocol.oci.network import find_network_namespace  # noqa: PLC0415 - the same
    from kata.sandbox.bundle import read_bundle  # noqa: PLC0415 - the same
    from kata.sandbox.network import PodNamespace  # noqa: PLC0415 - the same

    path = find_network_namespace(read_bundle(bundle).spec)
    descriptor = open_namespace(path)
    return None if descriptor is None else PodNamespace(descriptor, path or "")


def _write_log_to(path: str) -> None:
    """Let standard output and error go to the sandbox's log from now on, as `kata-runtime logs` shows it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
