"""The agent's parts, put together."""

import asyncio
import functools
import os

from kata.agent.bundle import is_initramfs
from kata.agent.change import Changes
from kata.agent.channel import MakeProtocol, find_sibling, serve
from kata.agent.crun import Crun
from kata.agent.log import Log, LogConnection
from kata.agent.options import Options
from kata.agent.reaper import Reaper
from kata.agent.rpc import build_services
from kata.agent.sandbox import BASE, Sandbox
from kata.agent.storage import Storages
from kata.agent.uevent import Uevents
from kata.errors import KataError
from kata.protocol.ttrpc.engine import Call
from kata.sys import linux
from kata.transport.ttrpc import ServerConnection

_GOODBYE = 0.1  # seconds


class Guest:
    """Owns everything that lives as long as the agent. Make it inside the event loop."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.finished = asyncio.Event()
        self.log = Log(options.log_level)
        if os.getpid() != 1:
            linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        self._reaper = Reaper()
        self._reaper.start()
        self._changes = Changes()
        self._uevents = Uevents()
        runtime = Crun(self._reaper, timeout=options.launch_process_timeout, pivot=not is_initramfs())
        storages = Storages(BASE, self._uevents, self._reaper, timeout=options.hotplug_timeout)
        sandbox = Sandbox(options, runtime, storages, self._changes, self._uevents, self.log)
        self._services = build_services(sandbox, self._uevents, options, self.finish)

    async def serve(self) -> None:
        """Serve the host until `finish`, or until the host can no longer be served. Raise ConfigError, HostError."""
        address = self._options.server_addr
        calls = asyncio.create_task(serve(address, self._make_connection))
        others = [asyncio.create_task(self._serve_quietly(port, make)) for port, make in self._find_ports()]
        finished = asyncio.create_task(self.finished.wait())
        try:
            await asyncio.wait({calls, finished}, return_when=asyncio.FIRST_COMPLETED)
            if calls.done():
                calls.result()
            await asyncio.sleep(_GOODBYE)
        finally:
            for task in (calls, finished, *others):
                task.cancel()

    def _find_ports(self) -> list[tuple[int, MakeProtocol]]:
        """The ports beside the one for calls, as the host has asked for them."""
        options = self._options
        ports: list[tuple[int, MakeProtocol]] = []
        if options.log_vport:
            ports.append((options.log_vport, lambda: LogConnection(self.log)))
        if options.debug_console and options.debug_console_vport:
            from kata.agent.console import ConsoleConnection, find_shell  # noqa: PLC0415 - debug guests only

            shell = find_shell()
            if shell is None:
                self.log.write("warn", "the image has no shell for a debug console")
            else:
                make = functools.partial(ConsoleConnection, shell, self._reaper, self.log)
                ports.append((options.debug_console_vport, make))
        return ports

    async def _serve_quietly(self, port: int, make: MakeProtocol) -> None:
        try:
            await serve(find_sibling(self._options.server_addr, port), make)
        except KataError as error:
            self.log.write("warn", "a port is not served", port=port, error=error)

    def _make_connection(self) -> ServerConnection:
        shared = self._options.server_addr.startswith("vport:")
        return ServerConnection(self._services, self._note_error, shared=shared)

    def _note_error(self, call: Call, error: Exception) -> None:
        self.log.write("error", "a call failed unexpectedly", method=call.method, error=repr(error))

    def finish(self) -> None:
        """End soon: the answer to the call that wanted it is still to leave."""
        self.finished.set()

    def close(self) -> None:
        self._uevents.close()
        self._changes.close()
        self._reaper.stop()
