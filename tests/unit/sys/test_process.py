"""What the kernel tells about processes."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack

from kata.sys.process import read_cpu_wait

_SPIN = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"


def _spin(stack: ExitStack) -> int:
    process = stack.enter_context(subprocess.Popen([sys.executable, "-ISc", _SPIN]))
    stack.callback(process.kill)
    return process.pid


def test_a_process_that_shares_its_cpu_has_waited_for_it() -> None:
    with ExitStack() as stack:
        pids = [_spin(stack) for _ in range(2)]
        deadline = time.monotonic() + 60
        while min(read_cpu_wait(pid) for pid in pids) < 0.05:
            assert time.monotonic() < deadline, "no process waits for the CPU that two want"


def test_a_process_that_is_gone_waits_for_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()

    assert read_cpu_wait(process.pid) == 0
    assert read_cpu_wait(os.getpid()) >= 0
