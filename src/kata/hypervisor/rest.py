"""VMMs that are driven by HTTP over a Unix socket: the calls, and the process with its API and its cell."""

import asyncio
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kata.errors import Code, GuestError, StateError, UnsupportedError
from kata.hypervisor.cell import API_SOCKET, MEMORY, Cell
from kata.hypervisor.launch import Launch
from kata.hypervisor.process import VmmProcess
from kata.hypervisor.ratelimit import RateLimits
from kata.hypervisor.saved import write_saved_file, write_saved_memory
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
    """One VMM's process with its API and its cell, and the limits that it keeps. A driver's VM builds on it.

    `vcpu_threads` is how the names of its vCPU threads begin; a number follows.
    """

    vcpu_threads = "vcpu"

    def __init__(self, launch: Launch, child: Child, cell: Cell, limits: RateLimits) -> None:
        super().__init__(launch, child)
        self.cell = cell
        self.api = RestApi(f"{cell.path}/{API_SOCKET}", child.name)
        self._kept.callback(self.api.close)
        self._limits = limits

    async def list_vcpu_threads(self) -> dict[int, int]:
        threads = {}
        for thread, name in list_threads(self.pid).items():
            number = name.removeprefix(self.vcpu_threads).strip()
            if name.startswith(self.vcpu_threads) and number.isdigit():
                threads[int(number)] = thread
        return threads

    async def save(self, directory: str, *, timeout: float) -> None:
        if not self.spec.savable:
            raise StateError(f"sandbox {self.spec.id} was not started as a VM that can be saved")
        for name, inside in (await self._write_snapshot(timeout=timeout)).items():
            with self.cell.read_file(inside) as file:
                write_saved_file(file, f"{directory}/{name}")
        with self.cell.read_file(MEMORY) as file:
            write_saved_memory(file, directory)

    async def _write_snapshot(self, *, timeout: float) -> dict[str, str]:  # noqa: ARG002 - refused
        """Stop the vCPUs and have the VM written to the cell, its memory to `MEMORY`.

        Return the cell's names of its other files by the names that they have outside.
        """
        raise UnsupportedError(f"VMs of {self.name} are not saved")
