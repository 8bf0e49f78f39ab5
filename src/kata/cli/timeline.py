"""`timeline`: where the time of a sandbox's start went, on the host and in the guest."""

import asyncio
import sys

from kata.cli.invocation import Invocation
from kata.cli.list import format_table
from kata.cli.records import find_sandbox_dir
from kata.cli.sandbox_id import find_sandbox
from kata.errors import DeadlineError, GuestError, NotFoundError
from kata.observe.timeline import Phase, parse_phases, read_phases
from kata.sandbox.management import SOCKET_NAME
from kata.transport.http import fetch

_TIMEOUT = 15.0


def run_timeline(invocation: Invocation) -> int:
    sandbox = find_sandbox(invocation.root, invocation.arguments[0])
    phases = _find_phases(sandbox, find_sandbox_dir(invocation.root, sandbox))
    if invocation.switch("html"):
        from kata.observe.timelinepage import draw_timeline  # noqa: PLC0415 - only for the picture

        sys.stdout.write(draw_timeline(f"Start of sandbox {sandbox}", phases))
    else:
        print(format_table([("WHERE", "PHASE", "START MS", "MS"), *map(_list_cells, phases)]))
    return 0


def _find_phases(sandbox: str, directory: str) -> list[Phase]:
    """Ask the sandbox's daemon, which asks the guest too. Of a sandbox that is lost, its file tells the host's part."""
    try:
        response = asyncio.run(fetch(f"{directory}/{SOCKET_NAME}", "/timeline", f"sandbox {sandbox}", timeout=_TIMEOUT))
        phases = parse_phases(response.body.decode())
    except (GuestError, DeadlineError) as error:
        print(f"the guest's part is missing: {error.message}", file=sys.stderr)
        phases = read_phases(f"{directory}/timeline.json")
    if not phases:
        raise NotFoundError(f"sandbox {sandbox} has no timeline yet", hint="its VM has only begun to start")
    return phases


def _list_cells(phase: Phase) -> tuple[str, ...]:
    name = f"{phase.name} (failed)" if phase.failed else phase.name
    return ("guest" if phase.in_guest else "host", name, f"{phase.start_ms:.1f}", f"{phase.ms:.1f}")
