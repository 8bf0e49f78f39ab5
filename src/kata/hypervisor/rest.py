"""VMMs that are driven by HTTP over a Unix socket: the calls, and the process with its console and its directory."""

import asyncio
import json
import os
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from kata.errors import Code, GuestError, KataError, StartError
from kata.hypervisor.cell import Cell
from kata.hypervisor.console import Console
from kata.hypervisor.driver import Started, VmExit
from kata.hypervisor.process import VmmProcess
from kata.hypervisor.spec import VmSpec
from kata.protocol.text import clean_text
from kata.sys.process import list_threads
from kata.sys.unixsocket import connect_unix, open_socket_node
from kata.transport.child import Child
from kata.transport.http import fetch

CALL_TIMEOUT = 10.0
_LONGEST_REASON = 2000
_PAUSE = 0.005


class RestApi:
    """The server at a Unix socket. `peer` names it in errors."""

    def __init__(self, path: str, peer: str) -> None:
        """The path is in a directory of the VMM's user, who may put anything there later: see `wait_served`."""
        self._path = path
        self._peer = peer
        self._node = -1

    async def wait_served(self) -> None:
        """Wait until there is the socket, and keep to that one from then on, whatever comes in its place.

        It is there before it is listened at.
        """
        while self._node < 0:
            with suppress(FileNotFoundError):
                self._node = open_socket_node(self._path)
                self._path = f"/proc/self/fd/{self._node}"
                break
            await asyncio.sleep(_PAUSE)
        while not _is_listened_at(self._path):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(_PAUSE)

    def close(self) -> None:
        """Let go of the socket. May be repeated."""
        if self._node >= 0:
            os.close(self._node)
            self._node = -1

    async def call(
        self,
        method: str,
        target: str,
        body: object = None,
        *,
        timeout: float = CALL_TIMEOUT,
        descriptors: Sequence[int] = (),
    ) -> Any:
        """Return what it answers, decoded. Raise GuestError with its own words where it refuses, DeadlineError."""
        content = b"" if body is None else json.dumps(body).encode()
        response = await fetch(
            self._path, target, self._peer, method=method, body=content, timeout=timeout, descriptors=descriptors
        )
        text = response.body.decode(errors="replace")
        if response.status >= 300:
            reason = clean_text(_find_reason(text))[:_LONGEST_REASON]
            raise GuestError(f"{self._peer} refused {method} {target}: {reason}", status=Code.FAILED_PRECONDITION)
        try:
            return json.loads(text) if text else None
        except ValueError as error:
            raise GuestError(f"{self._peer} answered {target} with no JSON") from error


def _is_listened_at(path: str) -> bool:
    try:
        connect_unix(path).close()
    except ConnectionRefusedError:
        return False
    return True


def _find_reason(text: str) -> str:
    """Firecracker says `{"fault_message": …}`, Cloud Hypervisor a list from the outermost error to its cause."""
    with suppress(ValueError):
        said = json.loads(text)
        if isinstance(said, dict) and "fault_message" in said:
            return str(said["fault_message"])
        if isinstance(said, list):
            return ": ".join(map(str, said))
    return text


class RestProcess(VmmProcess):
    """One VMM's process, its console, its directory, and all that was opened for it. A driver's `Vm` builds on it.

    `vcpu_threads` is how the names of its vCPU threads begin; a number follows.
    """

    vcpu_threads = "vcpu"

    def __init__(self, spec: VmSpec, child: Child, api: RestApi, cell: Cell, console: Console, undo: ExitStack) -> None:
        super().__init__(spec, child, console, undo)
        self.api = api
        self.cell = cell

    async def bring_up(self, creating: Coroutine[Any, Any, None], started: Started, *, timeout: float) -> None:
        """Have the VMM make the VM by the calls that are `creating` it; end it where that fails. Raise StartError."""
        try:
            started(self.pid)
            async with asyncio.timeout(timeout):
                await self._run_or_end(asyncio.create_task(creating))
        except BaseException as error:
            # Cancelled or failed: the VM is nobody's, so it goes, and what it said goes into the error.
            ending = await self.stop(timeout=0)
            if isinstance(error, KataError | TimeoutError):
                reason = str(error) or f"{self.name} did not start the VM within {timeout:g} s"
                raise StartError("hypervisor", reason, console=ending.console) from error
            raise

    async def _run_or_end(self, starting: "asyncio.Task[None]") -> None:
        """Wait for the calls that start the VM, or for the end of the VMM, whichever is first. Raise GuestError."""
        ending = asyncio.create_task(self._child.wait())
        try:
            await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and starting.exception() is not None:
                # It hangs up a moment before it has ended; its last words say more than a closed socket.
                await asyncio.wait({ending}, timeout=1.0)
            if ending.done() and (not starting.done() or starting.exception() is not None):
                raise GuestError(f"{self.name} {ending.result().describe()}")
            await starting
        finally:
            starting.cancel()
            ending.cancel()
            await asyncio.gather(starting, ending, return_exceptions=True)

    async def list_vcpu_threads(self) -> dict[int, int]:
        threads = {}
        for thread, name in list_threads(self.pid).items():
            number = name.removeprefix(self.vcpu_threads).strip()
            if name.startswith(self.vcpu_threads) and number.isdigit():
                threads[int(number)] = thread
        return threads

    async def shut_down(self, *, timeout: float) -> None:
        """Ask the VMM to end. Raise what the call raises."""

    async def stop(self, *, timeout: float = 2.0) -> VmExit:
        if self._child.ending is None and timeout > 0:
            with suppress(KataError, TimeoutError):
                async with asyncio.timeout(timeout):
                    await self.shut_down(timeout=timeout)
                    await self._child.wait()
        return await self._end()
