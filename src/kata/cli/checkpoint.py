"""`checkpoint` and `restore`: a container that stops here and goes on there, or later."""

from __future__ import annotations

import os

from kata.cli.bundle import open_bundle
from kata.cli.daemon import Origin
from kata.cli.invocation import Invocation
from kata.cli.records import read_record
from kata.cli.run import run_bundle
from kata.cli.service import CREATE_TIMEOUT, ServiceGoneError, open_service
from kata.errors import StateError, UnsupportedError
from kata.protocol.messages.sandbox import CheckpointRequest
from kata.protocol.messages.types import Empty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.records import Record

_DEFAULT = "checkpoint"
_REFUSED = ("pre-dump", "parent-path", "lazy-pages", "page-server")


def run_checkpoint(invocation: Invocation) -> int:
    _refuse_parts(invocation)
    record = read_record(invocation.root, invocation.arguments[0])
    directory, leave_running = _find_directory(invocation), invocation.switch("leave-running")
    ask_for_checkpoint(invocation, record, directory, leave_running=leave_running)
    return 0


def ask_for_checkpoint(invocation: Invocation, record: Record, directory: str, *, leave_running: bool) -> None:
    """Have the daemon save a container to a directory. Raise StateError where nobody runs it, and what that raises."""
    if record.get("namespace"):
        raise UnsupportedError(f"container {record['id']} is containerd's", hint="ctr tasks checkpoint saves it")
    request = CheckpointRequest(container_id=record["id"], directory=directory, leave_running=leave_running)
    try:
        with open_service(invocation.root, record["sandbox"]) as service:
            service.call("Checkpoint", request, Empty, timeout=CREATE_TIMEOUT)
    except ServiceGoneError:
        raise StateError("container not running") from None


def run_restore(invocation: Invocation) -> int:
    from kata.sandbox.checkpoint import read_checkpoint  # noqa: PLC0415 - for this command only

    _refuse_parts(invocation)
    directory = _find_directory(invocation)
    saved = read_checkpoint(directory)
    bundle = open_bundle(invocation.text("bundle") or saved.container.bundle)
    return run_bundle(invocation, bundle, invocation.arguments[0], Origin(directory))


def _find_directory(invocation: Invocation) -> str:
    return os.path.abspath(invocation.text("image-path") or _DEFAULT)


def _refuse_parts(invocation: Invocation) -> None:
    """Raise UnsupportedError for what CRIU does in pieces and a VM does at once."""
    for name in _REFUSED:
        if invocation.flags.get(name):
            raise UnsupportedError(f"--{name} cannot be honoured: a VM is saved as a whole")
