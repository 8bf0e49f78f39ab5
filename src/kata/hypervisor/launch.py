"""The launch of a VMM: what is opened for its process, who has it then, and the start itself."""

import io
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from kata.hypervisor.console import Console
from kata.hypervisor.spec import VmSpec
from kata.transport.boundedlog import BoundedLog
from kata.transport.child import Child, start_child


class Launch:
    """A VMM that is about to start, with the guest's console open.

    What is `lent` is the VMM's: it inherits that, and the driver closes its own when the launch is over. What is `kept`
    belongs to the VM that takes it over from the launch, and goes with it.
    """

    def __init__(self, vmm: str, spec: VmSpec, log_limit: int, lent: ExitStack, kept: ExitStack) -> None:
        self.spec = spec
        self.lent = lent
        self.kept = kept
        self._name = f"{vmm} of sandbox {spec.id}"
        self._log_limit = log_limit
        connection, self.vmm_console = self.connect()
        self.console = self.follow(connection, self.open_log("console.log"))

    def connect(self) -> tuple[socket.socket, int]:
        """Return our end of a connection with the VMM, and the descriptor of its own."""
        ours, theirs = socket.socketpair()
        self.kept.callback(ours.close)
        self.lent.callback(theirs.close)
        return ours, theirs.fileno()

    def open_log(self, name: str) -> BoundedLog:
        """Open a log in the sandbox's directory."""
        log = BoundedLog(os.path.join(self.spec.directory, name), limit=self._log_limit)
        self.kept.callback(log.close)
        return log

    def follow(self, connection: socket.socket | io.FileIO, log: BoundedLog) -> Console:
        """Copy what comes to a log."""
        console = Console(connection, log)
        self.kept.callback(console.close)
        return console

    def start(
        self,
        argv: Sequence[str],
        log: BoundedLog,
        *,
        descriptors: Sequence[int] = (),
        cwd: str = "/",
        output: int = subprocess.DEVNULL,
    ) -> Child:
        """Start the VMM, whose own words go to the log. Raise HostError."""
        return start_child(self._name, argv, descriptors=descriptors, cwd=cwd, log=log, output=output)


@contextmanager
def prepare_launch(vmm: str, spec: VmSpec, log_limit: int) -> Iterator[Launch]:
    """Have a launch of a VMM by this name, each of whose logs keeps so many bytes.

    At the end of the block all is closed but what a VM has taken over.
    """
    with ExitStack() as kept, ExitStack() as lent:
        yield Launch(vmm, spec, log_limit, lent, kept)
