"""A process as containerd knows it: from its Create or Exec to its Delete."""

import asyncio
from typing import Any

from kata.protocol.messages.task import DeleteResponse
from kata.shim.fifo import FifoAttachment, Streams
from kata.shim.standin import StandIn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.sandbox.process import GuestProcess
    from kata.shim.streams import StreamAttachment


class Process:
    """A container's first process (`exec_id` empty) or one executed in it. `exited` is set once, with code and time.

    `starter` is its start, under way or over; `starting` is held meanwhile, and `started` says that it went well.
    """

    def __init__(
        self,
        container: str,
        exec_id: str,
        streams: Streams,
        attachment: "FifoAttachment | StreamAttachment",
        spec: dict[str, Any] | None = None,
    ) -> None:
        """`spec` is OCI's process object of one to be executed, which the guest is told when it is started."""
        self.container = container
        self.exec_id = exec_id
        self.streams = streams
        self.spec = spec
        self.attachment = attachment
        self.started = False
        self.starting = asyncio.Lock()
        self.starter: asyncio.Task[None] | None = None
        self.size: tuple[int, int] | None = None
        self.exited: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self.guest: GuestProcess | None = None
        self.watcher: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        container = f"container {self.container}"
        return f"process {self.exec_id} of {container}" if self.exec_id else container

    @property
    def ended(self) -> tuple[int, int] | None:
        """Exit code, and nanoseconds since 1970; None while there is none."""
        return self.exited.result() if self.exited.done() else None


class TaskEntry:
    """A container as containerd knows it: bundle, where its root is, first process and execs, who stands for them.

    `adding` is held while an exec joins; `deletion` is the last that was begun.
    """

    def __init__(self, bundle: str, rootfs: str, init: Process, stand_in: StandIn) -> None:
        self.bundle = bundle
        self.rootfs = rootfs
        self.init = init
        self.stand_in = stand_in
        self.execs: dict[str, Process] = {}
        self.adding = asyncio.Lock()
        self.deletion: asyncio.Task[DeleteResponse] | None = None
