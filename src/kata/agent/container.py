"""A container: its bundle, its cgroup, its processes, from creation to removal."""

import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable

from kata.agent.bundle import Bundle, find_string_user, fit_process
from kata.agent.cgroup import Cgroup
from kata.agent.change import Changes
from kata.agent.crun import Runtime
from kata.agent.process import ConsoleSocket, Process, choose_signal
from kata.agent.spec import convert_spec
from kata.agent.stdio import Pipes, Terminal
from kata.errors import DeadlineError, ExistsError, HostError, NotFoundError, StateError, UsageError
from kata.protocol.messages import oci
from kata.protocol.messages.agent import StringUser
from kata.sys.tree import remove_tree

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,255}")
_SOCKETS = "/run/kata-agent/console"
_FORGET_AFTER = 10.0  # seconds; how long output that nobody reads outlives a process whose status was taken
_DIE_WITHIN = 30.0  # seconds
_HALT_WITHIN = 10.0  # seconds

_Run = Callable[[tuple[int, int, int], str | None], Awaitable[tuple[int, asyncio.Future[int]]]]
"""Start a process on three descriptors, or on the terminal that it is to deliver to a socket."""


def check_name(name: str) -> str:
    """Return an id that is fit to be a file name. Raise UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no id: letters, digits, '_', '.', '-'; a letter or digit first; 256 at most")
    return name


class Container:
    """One container. `release` frees what the sandbox gave it, at removal."""

    def __init__(self, bundle: Bundle, spec: oci.Spec, runtime: Runtime, changes: Changes, pipe_size: int) -> None:
        """`spec` fits the guest already; `pipe_size` is in bytes."""
        assert spec.Linux is not None
        self.id = bundle.container_id
        self.spec = spec
        self.bundle = bundle
        self.cgroup = Cgroup(spec.Linux.CgroupsPath)
        self.oom_kills = 0
        self.started = False
        self._runtime = runtime
        self._changes = changes
        self._pipe_size = pipe_size
        self._processes: dict[str, Process | None] = {}
        self._tickets: list[int] = []
        self._removing = False

    @property
    def init(self) -> Process:
        """The first process. Raise StateError while the container is being created."""
        process = self._processes.get("")
        if process is None:
            raise StateError(f"container {self.id} is not created yet")
        return process

    async def create(self) -> None:
        """Run crun up to the moment before the container's program. Raise HostError with what it said."""
        assert self.spec.Process is not None
        name = f"container {self.id}"
        self._processes[""] = None
        directory = self.bundle.directory
        self._processes[""] = await self._launch(
            name,
            self.spec.Process.Terminal,
            lambda stdio, console: self._runtime.create(self.id, directory, stdio, console),
        )

    async def start(self) -> None:
        """Let the program run. Raise StateError when it runs already or has ended."""
        if self.started or self.init.exited:
            raise StateError(f"container {self.id} {'has ended' if self.init.exited else 'is started already'}")
        hooks = self.spec.Hooks
        await self._runtime.start(self.id, self.bundle.directory, hooks=bool(hooks and hooks.Poststart))
        self.started = True

    async def execute(self, exec_id: str, process: oci.Process, wanted: StringUser | None) -> None:
        """Run another process in the container.

        Raise ExistsError for an id that is taken, StateError for a container that does not run.
        """
        check_name(exec_id)
        if exec_id in self._processes or exec_id == self.id:
            raise ExistsError(f"container {self.id} has a process {exec_id} already")
        if not self.started or self.init.exited:
            raise StateError(f"container {self.id} does not run: nothing can be executed in it")
        if not process.Args:
            raise UsageError(f"process {exec_id} of container {self.id} has no arguments")
        directory = f"{self.bundle.directory}/exec-{exec_id}"
        self._processes[exec_id] = None
        try:
            os.mkdir(directory, 0o700)
            find_string_user(wanted, process, self.bundle.rootfs)
            fit_process(process)
            self.bundle.write_json(f"exec-{exec_id}/process.json", convert_spec(process))
            self._processes[exec_id] = await self._launch(
                f"process {exec_id} of container {self.id}",
                process.Terminal,
                lambda stdio, console: self._runtime.execute(self.id, directory, stdio, console),
            )
        except BaseException:
            del self._processes[exec_id]
            raise
        finally:
            remove_tree(directory)

    async def _launch(self, name: str, terminal: bool, run: _Run) -> Process:
        if terminal:
            return await self._launch_with_terminal(name, run)
        pipes = Pipes(name, self._pipe_size)
        try:
            pid, status = await run(pipes.theirs, None)
        except BaseException:
            pipes.close()
            raise
        pipes.close_theirs()
        process = Process(name, pipes)
        process.follow(pid, status)
        return process

    async def _launch_with_terminal(self, name: str, run: _Run) -> Process:
        os.makedirs(_SOCKETS, 0o700, exist_ok=True)
        console = ConsoleSocket(f"{_SOCKETS}/{id(name):x}")
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            pid, status = await run((null, null, null), console.path)
            try:
                terminal = Terminal(console.take_master(), name)
            except HostError:
                os.kill(pid, signal.SIGKILL)
                raise
        finally:
            os.close(null)
            console.close()
        process = Process(name, terminal)
        process.follow(pid, status)
        return process

    def find_process(self, exec_id: str) -> Process:
        """The process of an exec id; the empty id and the container's own mean the first one. Raise NotFoundError."""
        key = "" if exec_id == self.id else exec_id
        process = self._processes.get(key)
        if process is None:
            raise NotFoundError(f"container {self.id} has no process {exec_id or self.id}")
        return process

    @property
    def processes(self) -> list[Process]:
        return [process for process in self._processes.values() if process is not None]

    def signal(self, exec_id: str, number: int) -> None:
        """Signal one process, or with SIGKILL and no exec id all of them, frozen ones too.

        A process that has ended takes every signal in silence. Raise NotFoundError, UsageError, HostError.
        """
        if not 0 <= number <= signal.NSIG:
            raise UsageError(f"there is no signal {number}")
        if not exec_id and number == signal.SIGKILL:
            if not self.cgroup.kill():
                self.init.signal(number)
            return
        process = self.find_process(exec_id)
        if process is self._processes.get("") and not process.exited:
            number = choose_signal(process.pid, number)
        process.signal(number)

    async def wait(self, exec_id: str) -> int:
        """Wait for the end of a process and return its status. An executed process is forgotten soon after."""
        process = self.find_process(exec_id)
        status = await process.wait()
        if process is not self._processes.get(""):
            self._forget(exec_id, process)
        return status

    def _forget(self, exec_id: str, process: Process) -> None:
        """Drop a process whose status was taken, once its output was read to the end, or after a while."""
        if self._processes.get(exec_id) is not process:
            return
        if process.drained:
            self._drop(exec_id, process)
        else:
            asyncio.get_running_loop().call_later(_FORGET_AFTER, self._drop, exec_id, process)

    def _drop(self, exec_id: str, process: Process) -> None:
        if self._processes.get(exec_id) is process:
            del self._processes[exec_id]
            process.close()

    async def update(self, resources: oci.LinuxResources) -> None:
        """Change limits. Raise HostError with crun's words."""
        resources.Devices = []
        content = convert_spec(resources)
        if content:
            self.bundle.write_json("resources.json", content)
            await self._runtime.update(self.id, self.bundle.directory)

    def freeze(self, frozen: bool) -> None:
        try:
            self.cgroup.freeze(frozen)
        except OSError as error:
            raise HostError(f"container {self.id} cannot be {'paused' if frozen else 'resumed'}: {error}") from error

    async def freeze_wholly(self) -> None:
        """Freeze it, and wait until every process has come to a halt. Raise DeadlineError, HostError."""
        changed = asyncio.Event()
        ticket = self._changes.watch(f"{self.cgroup.directory}/cgroup.events", changed.set)
        try:
            self.freeze(True)
            async with asyncio.timeout(_HALT_WITHIN):
                while not self.cgroup.stands_still():
                    changed.clear()
                    await changed.wait()
        except TimeoutError as error:
            raise DeadlineError(
                f"the processes of container {self.id} do not halt within {_HALT_WITHIN:g} s"
            ) from error
        finally:
            self._changes.unwatch(ticket)

    def watch(self, file: str, callback: Callable[[], None]) -> None:
        """Call back at each change of a file of the cgroup, as long as the container is there."""
        if os.path.exists(f"{self.cgroup.directory}/{file}"):
            self._tickets.append(self._changes.watch(f"{self.cgroup.directory}/{file}", callback))

    async def remove(self, *, timeout: float) -> None:
        """Kill what runs and free everything. Raise DeadlineError when it does not die within `timeout` seconds."""
        if self._removing:
            raise StateError(f"container {self.id} is being removed already")
        self._removing = True
        try:
            async with asyncio.timeout(timeout or _DIE_WITHIN):
                await self._kill()
        except TimeoutError as error:
            raise DeadlineError(
                f"the processes of container {self.id} did not die within {timeout or _DIE_WITHIN:g} s"
            ) from error
        finally:
            self._removing = False
        hooks = self.spec.Hooks
        await self._runtime.delete(self.id, self.bundle.directory, hooks=bool(hooks and hooks.Poststop))
        self.discard()

    def discard(self) -> None:
        """Free what the agent holds: streams, watches, the bundle."""
        for ticket in self._tickets:
            self._changes.unwatch(ticket)
        self._tickets.clear()
        for process in self.processes:
            process.close()
        self._processes.clear()
        self.bundle.remove()

    async def _kill(self) -> None:
        """Kill everything and remove the cgroup, which the kernel refuses until the last process is reaped."""
        self.cgroup.kill()
        init = self._processes.get("")
        if init is not None:
            init.signal(signal.SIGKILL)
            await init.wait()
        if self.cgroup.remove():
            return
        changed = asyncio.Event()
        ticket = self._changes.watch(f"{self.cgroup.directory}/cgroup.events", changed.set)
        try:
            while not self.cgroup.remove():
                changed.clear()
                try:
                    async with asyncio.timeout(0.1):
                        await changed.wait()
                except TimeoutError:
                    self.cgroup.kill()
        finally:
            self._changes.unwatch(ticket)
