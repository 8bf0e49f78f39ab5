"""How containers are made: the OCI runtime of the guest, and what it is called with.

One run of crun costs 150 to 180 ms in an emulated guest, so only what has to set up a process is left to it. Starting
is one byte into the fifo on which the process waits; signals, freezing and removal are the cgroup's.
"""

import asyncio
import contextlib
import fcntl
import os
from typing import Protocol

from kata.agent.reaper import Reaper
from kata.agent.spans import SPANS
from kata.errors import HostError
from kata.sys.file import read_text
from kata.sys.program import find_program
from kata.sys.tree import remove_tree

_STATE = "/run/crun"
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Runtime(Protocol):
    """What the agent wants of an OCI runtime. Every call raises HostError with what the runtime said."""

    async def create(
        self, container_id: str, bundle: str, stdio: tuple[int, int, int], console: str | None
    ) -> "tuple[int, asyncio.Future[int]]":
        """Make a container from a bundle, up to the moment before its program. Return its pid and exit status."""

    async def start(self, container_id: str, bundle: str, *, hooks: bool) -> None:
        """Let the program of a created container run; `hooks` tells that there are poststart hooks."""

    async def execute(
        self, container_id: str, directory: str, stdio: tuple[int, int, int], console: str | None
    ) -> "tuple[int, asyncio.Future[int]]":
        """Run the process described by `process.json` of a directory in a running container."""

    async def update(self, container_id: str, directory: str) -> None:
        """Change limits to `resources.json` of a directory."""

    async def delete(self, container_id: str, bundle: str, *, hooks: bool) -> None:
        """Forget a container that has no processes left; `hooks` tells that there are poststop hooks."""


class Crun:
    """crun with cgroupfs. `timeout` in seconds bounds each run."""

    def __init__(self, reaper: Reaper, *, timeout: float, pivot: bool) -> None:
        """`pivot` is False where pivot_root cannot work: on an initramfs."""
        self._reaper = reaper
        self._timeout = timeout
        self._pivot = pivot
        self._program = ""

    async def create(
        self, container_id: str, bundle: str, stdio: tuple[int, int, int], console: str | None
    ) -> "tuple[int, asyncio.Future[int]]":
        arguments = ["create", "--bundle", bundle, "--pid-file", f"{bundle}/pid"]
        if console:
            arguments += ["--console-socket", console]
        if not self._pivot:
            arguments += ["--no-pivot"]
        return await self._launch([*arguments, container_id], bundle, stdio)

    async def start(self, container_id: str, bundle: str, *, hooks: bool) -> None:
        if hooks:
            await self._run(["start", container_id], bundle)
            return
        fifo = f"{_STATE}/{container_id}/exec.fifo"
        try:
            # The waiting process has the fifo open for reading already; without it this fails with ENXIO.
            descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.unlink(fifo)  # crun tells "created" from "running" by it
                os.write(descriptor, b"\0")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise HostError(
                f"container {container_id} cannot be started: its process does not wait any more: {error.strerror}"
            ) from error

    async def execute(
        self, container_id: str, directory: str, stdio: tuple[int, int, int], console: str | None
    ) -> "tuple[int, asyncio.Future[int]]":
        arguments = ["exec", "--detach", "--process", f"{directory}/process.json", "--pid-file", f"{directory}/pid"]
        if console:
            arguments += ["--console-socket", console]
        return await self._launch([*arguments, container_id], directory, stdio)

    async def update(self, container_id: str, directory: str) -> None:
        await self._run(["update", "--resources", f"{directory}/resources.json", container_id], directory)

    async def delete(self, container_id: str, bundle: str, *, hooks: bool) -> None:
        if hooks:
            await self._run(["delete", "--force", container_id], bundle)
        else:
            remove_tree(f"{_STATE}/{container_id}")

    async def _launch(
        self, arguments: list[str], directory: str, stdio: tuple[int, int, int]
    ) -> "tuple[int, asyncio.Future[int]]":
        with self._reaper.expect_orphans():
            await self._run(arguments, directory, stdio)
            pid = int(read_text(f"{directory}/pid"))
            return pid, self._reaper.watch(pid)

    async def _run(self, arguments: list[str], directory: str, stdio: tuple[int, int, int] | None = None) -> None:
        log = f"{directory}/crun.log"
        argv = ["crun", "--cgroup-manager=cgroupfs", f"--root={_STATE}", f"--log={log}", *arguments]
        null = -1 if stdio else os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            with SPANS.measure(f"crun {arguments[0]}"):
                self._program = self._program or seal_program("crun")
                streams = stdio or (null, null, null)
                status = await self._reaper.run(argv, stdio=streams, timeout=self._timeout, program=self._program)
        finally:
            if null >= 0:
                os.close(null)
        if status:
            raise HostError(f"crun {arguments[0]} {arguments[-1]}: {read_reason(log) or f'exit status {status}'}")


def seal_program(name: str) -> str:
    """Return a path of a program's copy in memory that nobody can write to, as long as this process lives.

    crun runs itself from such a copy, so that no container can reach and change the file that it was started from
    (CVE-2019-5736), unless it finds that it is one: then it is linked once and not twice. Sources: memfd_create(2),
    fcntl(2), `is_self_cloned` of libcrun. Without the program its name is returned, for an error that says so.
    """
    path = find_program(name)
    if path is None:
        return name
    copy = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(path, "rb") as file, open(os.dup(copy), "wb") as sealed:
        sealed.write(file.read())
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    return f"/proc/self/fd/{copy}"


def read_reason(log: str) -> str:
    """Return what crun complained about, in one line, and remove its file `log`. Empty if there is none.

    crun ends a line with strerror(3), "No such file or directory"; runc with Go's spelling of it, "no such …". Docker's
    client makes 127 and 126 of these words as runc spells them.
    """
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = file.read(4096).splitlines()
    except OSError:
        return ""
    finally:
        with contextlib.suppress(OSError):
            os.unlink(log)
    return "; ".join(_spell_as_runc(line) for line in lines if line)


def _spell_as_runc(line: str) -> str:
    what, colon, error = line.rpartition(": ")
    if not colon or not error[1:2].islower():
        return line
    return f"{what}: {error[0].lower()}{error[1:]}"
