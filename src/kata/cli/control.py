"""Commands that one call to the daemon does: start, kill, delete, pause, resume."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from kata.cli.invocation import Invocation
from kata.cli.records import find_record_path, find_sandbox_dir, list_records, read_record
from kata.cli.service import CREATE_TIMEOUT, ServiceGoneError, open_service
from kata.errors import Code, DeadlineError, GuestError, NotFoundError, StateError, UsageError
from kata.protocol.messages.sandbox import ContainerRequest, DeleteContainerRequest, SignalProcessRequest
from kata.protocol.messages.types import Empty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.records import Record

_LEAVE_TIMEOUT = 30.0
_LEAVE_PAUSE = 0.02


def run_start(invocation: Invocation) -> int:
    record = read_record(invocation.root, invocation.arguments[0])
    try:
        start_container(invocation.root, record)
    except ServiceGoneError:
        raise StateError("cannot start a container that has stopped") from None
    return 0


def start_container(root: str, record: Record) -> None:
    with open_service(root, record["sandbox"]) as service:
        service.call("StartContainer", ContainerRequest(container_id=record["id"]), Empty, timeout=CREATE_TIMEOUT)


def run_pause(invocation: Invocation) -> int:
    return _ask(invocation, "PauseContainer", "container not running")


def run_resume(invocation: Invocation) -> int:
    return _ask(invocation, "ResumeContainer", "container not paused")


def _ask(invocation: Invocation, method: str, otherwise: str) -> int:
    record = read_record(invocation.root, invocation.arguments[0])
    try:
        with open_service(invocation.root, record["sandbox"]) as service:
            service.call(method, ContainerRequest(container_id=record["id"]), Empty)
    except StateError as error:
        raise StateError(otherwise, hint=error.message) from error
    return 0


def run_kill(invocation: Invocation) -> int:
    record = read_record(invocation.root, invocation.arguments[0])
    number = parse_signal(invocation.arguments[1] if len(invocation.arguments) > 1 else "SIGTERM")
    everyone = invocation.switch("all")
    request = SignalProcessRequest(container_id=record["id"], signal=number, everyone=everyone)
    try:
        with open_service(invocation.root, record["sandbox"]) as service:
            service.call("SignalProcess", request, Empty)
    except (StateError, NotFoundError) as error:
        if everyone:
            return 0  # as runc: nobody is left to be signalled
        raise StateError("container not running", hint=error.message) from error
    return 0


def parse_signal(text: str) -> int:
    """Return the number of a signal: `9`, `KILL`, `SIGKILL`, `RTMIN+3`. Raise UsageError in runc's words."""
    if text.isdigit() and text.isascii():
        number = int(text)
        if 0 < number <= signal.SIGRTMAX:
            return number
        raise UsageError(f"unable to signal init: invalid argument: {text}")
    name = text.upper().removeprefix("SIG")
    base, sign, offset = name.partition("+") if "+" in name else name.partition("-")
    found = signal.Signals.__members__.get(f"SIG{base}")
    if found is None or (sign and (not offset.isdigit() or not base.startswith("RT"))):
        raise UsageError(f'unknown signal "{text}"')
    number = int(found) + (int(f"{sign}{offset}") if sign else 0)
    if sign and not signal.SIGRTMIN <= number <= signal.SIGRTMAX:
        raise UsageError(f'unknown signal "{text}"')
    return number


def run_delete(invocation: Invocation) -> int:
    force = invocation.switch("force")
    try:
        record = read_record(invocation.root, invocation.arguments[0])
    except NotFoundError:
        if force:
            return 0
        raise
    delete_container(invocation.root, record, force=force)
    return 0


def delete_container(root: str, record: Record, *, force: bool) -> None:
    """Delete a container, and its sandbox when it was the last, and wait until its record is gone."""
    container = record["id"]
    try:
        with open_service(root, record["sandbox"]) as service:
            request = DeleteContainerRequest(container_id=container, force=force)
            service.call("DeleteContainer", request, Empty, timeout=CREATE_TIMEOUT)
    except (ServiceGoneError, NotFoundError):
        _collect(root, record)
    except StateError as error:
        raise StateError(f"cannot delete container {container} that is not stopped", hint=error.message) from error
    except GuestError as error:
        if error.status != Code.UNAVAILABLE:
            raise
        _collect(root, record)
    _wait_until_gone(find_record_path(root, container))
    if not any(other["sandbox"] == record["sandbox"] for other in list_records(root)):
        _wait_until_gone(find_sandbox_dir(root, record["sandbox"]))


def _collect(root: str, record: Record) -> None:
    """Do what the daemon would have done, had it lived: release the sandbox's resources and forget the container."""
    if os.path.exists(find_sandbox_dir(root, record["sandbox"])):
        from kata.sandbox.collect import release_sandbox  # noqa: PLC0415 - only after a crash

        release_sandbox(root, record["sandbox"])
    with contextlib.suppress(FileNotFoundError):
        os.unlink(find_record_path(root, record["id"]))


def _wait_until_gone(path: str) -> None:
    """Wait for the daemon to clear up after its answer: an engine may create the same id at once."""
    deadline = time.monotonic() + _LEAVE_TIMEOUT
    while os.path.exists(path):
        if time.monotonic() > deadline:
            raise DeadlineError(f"{path} was not removed within {_LEAVE_TIMEOUT:g} s", hint="run kata-runtime gc")
        time.sleep(_LEAVE_PAUSE)
