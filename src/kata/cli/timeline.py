"""`timeline`: where the time of a sandbox's start went."""

import os

from kata.cli.invocation import Invocation
from kata.cli.list import format_table
from kata.cli.records import find_sandbox_dir
from kata.cli.sandbox_id import find_sandbox
from kata.errors import NotFoundError
from kata.observe.timeline import read_phases


def run_timeline(invocation: Invocation) -> int:
    sandbox = find_sandbox(invocation.root, invocation.arguments[0])
    path = f"{find_sandbox_dir(invocation.root, sandbox)}/timeline.json"
    if not os.path.exists(path):
        raise NotFoundError(f"sandbox {sandbox} has no timeline yet", hint="it is written once the VM has started")
    rows = [
        (f"{phase.name} (failed)" if phase.failed else phase.name, f"{phase.start_ms:.1f}", f"{phase.ms:.1f}")
        for phase in read_phases(path)
    ]
    print(format_table([("PHASE", "START MS", "MS"), *rows]))
    return 0
