"""An agent for tests: the real ttrpc server on a real socket, whose containers are what a test says."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from kata.errors import Code, KataError
from kata.protocol.messages import agent as wire
from kata.protocol.messages import checkpoint as checkpoint_wire
from kata.protocol.messages.types import Empty
from kata.protocol.protobuf import Message
from kata.sandbox.guest import SERVICE, Guest
from kata.transport.ttrpc import Method, ServerConnection, connect_unix

Result = TypeVar("Result")


class EndOfStreamError(KataError):
    """What the agent answers to a read past the end."""

    code = Code.OUT_OF_RANGE


class GoneError(KataError):
    """What the agent answers about a process that it does not have."""

    code = Code.NOT_FOUND


class HeldError(KataError):
    """What the agent answers to a call that waits when it is held."""

    code = Code.ABORTED


class Peer:
    """Keeps the calls it got in `calls`, and answers those named in `held` when told to.

    `exit` is the exit code once it is set; output comes from queues. A test may add to `methods`.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, Message]] = []
        self.heard = asyncio.Event()
        self.held: dict[str, asyncio.Event] = {}
        self.exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.output: dict[str, asyncio.Queue[bytes]] = {"Stdout": asyncio.Queue(), "Stderr": asyncio.Queue()}
        self.stdin = bytearray()
        self.stdin_closed = asyncio.Event()
        self.connections: list[ServerConnection] = []
        self.methods: dict[str, Method] = {}
        self._is_held = asyncio.Event()

    async def serve(self, path: str) -> asyncio.Server:
        self.methods |= {
            "CreateContainer": Method(wire.CreateContainerRequest, self._note("CreateContainer")),
            "StartContainer": Method(wire.StartContainerRequest, self._note("StartContainer")),
            "RemoveContainer": Method(wire.RemoveContainerRequest, self._note("RemoveContainer")),
            "ExecProcess": Method(wire.ExecProcessRequest, self._note("ExecProcess")),
            "SignalProcess": Method(wire.SignalProcessRequest, self._signal),
            "WaitProcess": Method(wire.WaitProcessRequest, self._wait),
            "ReadStdout": Method(wire.ReadStreamRequest, self._read("Stdout")),
            "ReadStderr": Method(wire.ReadStreamRequest, self._read("Stderr")),
            "WriteStdin": Method(wire.WriteStreamRequest, self._write),
            "CloseStdin": Method(wire.CloseStdinRequest, self._close_stdin),
        }

        def welcome() -> ServerConnection:
            checkpoint = {"Hold": Method(Empty, self._hold), "Release": Method(Empty, self._note("Release"))}
            self.connections.append(ServerConnection({SERVICE: self.methods, checkpoint_wire.SERVICE: checkpoint}))
            return self.connections[-1]

        return await asyncio.get_running_loop().create_unix_server(welcome, path)

    def _note(self, name: str) -> Callable[[Any], Awaitable[Empty]]:
        async def handle(request: Message) -> Empty:
            self.calls.append((name, request))
            if name in self.held:
                self.heard.set()
                await self.held[name].wait()
            return Empty()

        return handle

    async def _signal(self, request: wire.SignalProcessRequest) -> Empty:
        self.calls.append(("SignalProcess", request))
        if self.exit.done():
            raise GoneError("no such process")
        self.exit.set_result(128 + request.signal)
        return Empty()

    async def _wait(self, request: wire.WaitProcessRequest) -> wire.WaitProcessResponse:
        return wire.WaitProcessResponse(status=await self._unless_held(asyncio.shield(self.exit)))

    def _read(self, stream: str) -> Callable[[Any], Awaitable[wire.ReadStreamResponse]]:
        async def handle(request: wire.ReadStreamRequest) -> wire.ReadStreamResponse:
            data = await self._unless_held(self.output[stream].get())
            if not data:
                raise EndOfStreamError("end of stream")
            return wire.ReadStreamResponse(data=data)

        return handle

    async def _unless_held(self, work: Awaitable[Result]) -> Result:
        wait, hold = asyncio.ensure_future(work), asyncio.ensure_future(self._is_held.wait())
        await asyncio.wait({wait, hold}, return_when=asyncio.FIRST_COMPLETED)
        hold.cancel()
        if not wait.done():
            wait.cancel()
            raise HeldError("the guest is being saved")
        return wait.result()

    async def _hold(self, _: Empty) -> Empty:
        """End every wait, and take a moment, so that their answers are out first."""
        self.calls.append(("Hold", _))
        self._is_held.set()
        await asyncio.sleep(0)
        self._is_held.clear()
        await asyncio.sleep(0)
        return Empty()

    async def _write(self, request: wire.WriteStreamRequest) -> wire.WriteStreamResponse:
        self.stdin += request.data
        return wire.WriteStreamResponse(len=len(request.data))

    async def _close_stdin(self, request: wire.CloseStdinRequest) -> Empty:
        self.stdin_closed.set()
        return Empty()


async def open_guest(path: str) -> Guest:
    """Connect to a peer as a sandbox does."""
    return Guest(await connect_unix(path, "the agent", timeout=5))
