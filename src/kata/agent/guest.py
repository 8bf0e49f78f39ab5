"""The agent's parts, put together."""

import asyncio
import os

from kata.agent.bundle import is_initramfs
from kata.agent.change import Changes
from kata.agent.crun import Crun
from kata.agent.log import Log
from kata.agent.options import Options
from kata.agent.reaper import Reaper
from kata.agent.rpc import build_services
from kata.agent.sandbox import BASE, Sandbox
from kata.agent.storage import Storages
from kata.agent.uevent import Uevents
from kata.protocol.ttrpc.engine import Call
from kata.sys import linux
from kata.transport.ttrpc import ServerConnection

_GOODBYE = 1.0  # seconds


class Guest:
    """Owns everything that lives as long as the agent. Make it inside the event loop."""

    def __init__(self, options: Options) -> None:
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
        self._services = build_services(sandbox, self.finish)
        self._connections: set[ServerConnection] = set()

    def make_connection(self) -> ServerConnection:
        return ServerConnection(self._services, self._note_error)

    def _note_error(self, call: Call, error: Exception) -> None:
        self.log.write("error", "a call failed unexpectedly", method=call.method, error=repr(error))

    def finish(self) -> None:
        self.finished.set()

    async def say_goodbye(self) -> None:
        """Let the answer to the last call leave."""
        await asyncio.sleep(0)

    def close(self) -> None:
        self._uevents.close()
        self._changes.close()
        self._reaper.stop()
