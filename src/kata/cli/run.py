"""`run`: create, start, wait, delete. The command itself stands for the container's process unless it detaches."""

from __future__ import annotations

import contextlib
import os

from kata.cli.bundle import Bundle, open_bundle
from kata.cli.control import delete_container, start_container
from kata.cli.create import Creation, check_console, create_detached, raise_on_signals, refuse_preserved_files
from kata.cli.invocation import Invocation
from kata.cli.pid_file import write_pid_file
from kata.cli.records import read_record
from kata.cli.stand_in import StandIn, send_hello
from kata.cli.terminal import RawMode, find_own_terminal
from kata.errors import KataError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from kata.cli.daemon import Origin
    from kata.cli.records import Record


def run_run(invocation: Invocation) -> int:
    refuse_preserved_files(invocation)
    if invocation.text("rootfs") or invocation.text("oci-layout"):
        from kata.cli.made_bundle import run_made_bundle  # noqa: PLC0415 - an engine never comes this way

        return run_made_bundle(invocation)
    if len(invocation.arguments) != 1:
        raise UsageError('kata-runtime: "run" requires exactly 1 argument(s) unless --rootfs or --oci-layout is given')
    return run_bundle(invocation, open_bundle(invocation.text("bundle")), invocation.arguments[0])


def run_bundle(invocation: Invocation, bundle: Bundle, container: str, origin: Origin | None = None) -> int:
    """Run a bundle's container and return its exit code, 0 where it is detached. With an `origin` it goes on."""
    detached = invocation.switch("detach")
    check_console(invocation.text("console-socket"), terminal=bundle.terminal, detached=detached)
    if detached:
        return _run_detached(invocation, bundle, container, origin)
    return _run_attached(invocation, bundle, container, origin)


def _run_detached(invocation: Invocation, bundle: Bundle, container: str, origin: Origin | None) -> int:
    with raise_on_signals():
        create_detached(invocation, bundle, container, origin)
        record = read_record(invocation.root, container)
        with _deleting_on_failure(invocation, record):
            start_container(invocation.root, record)
    return 0


def _run_attached(invocation: Invocation, bundle: Bundle, container: str, origin: Origin | None) -> int:
    terminal = find_own_terminal() if bundle.terminal else None
    creation = Creation(invocation, bundle, container, origin)
    with contextlib.ExitStack() as stack:
        with raise_on_signals():
            try:
                connection = stack.enter_context(creation.open_sandbox())
                if creation.network is not None:
                    from kata.network.namespace import enter_namespace  # noqa: PLC0415 - as in `open_sandbox`

                    enter_namespace(creation.network)
                send_hello(connection, container, "", terminal)
                connection.settimeout(None)
                creation.create(os.getpid())
            except BaseException:
                creation.undo()
                raise
        record = read_record(invocation.root, container)
        with _deleting_on_failure(invocation, record):
            if invocation.text("pid-file"):
                write_pid_file(invocation.text("pid-file"), os.getpid())
            if terminal is not None:
                stack.enter_context(RawMode(terminal))
            stand_in = stack.enter_context(StandIn(connection, terminal))
            start_container(invocation.root, record)
            code = stand_in.follow()
    if not invocation.switch("keep"):
        delete_container(invocation.root, record, force=True)
    return code


@contextlib.contextmanager
def _deleting_on_failure(invocation: Invocation, record: Record) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(KataError):
            delete_container(invocation.root, record, force=True)
        raise
