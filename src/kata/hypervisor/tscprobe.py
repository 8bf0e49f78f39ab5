"""How fast this machine's time stamp counter runs, measured by a process of its own (`kata.hypervisor.probe`).

A process, as it calls machine code through ctypes, which nobody else on the way of a start needs. x86-64 only. Source:
RDTSC in AMD's and Intel's manuals of the processor.
"""

import ctypes
import json
import mmap
import sys
import time

_SECONDS = 0.03
"""How long the counter is left to run between two looks: each is wrong by a microsecond at the most."""

_TRIES = 5
_READ_COUNTER = bytes.fromhex("0f31 48c1e220 4809d0 c3")
"""rdtsc; shl rdx, 32; or rax, rdx; ret."""


def measure_counter() -> int:
    """Return the counter's frequency in kHz. Raise OSError where memory may not be made executable."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(_READ_COUNTER)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))

    def look() -> tuple[int, int]:
        """Both clocks, as near to each other as one of a few looks had them: there may be an interruption between."""
        looks = []
        for _ in range(_TRIES):
            before = time.monotonic_ns()
            counter = read()
            looks.append((time.monotonic_ns() - before, before, counter))
        _, nanoseconds, counter = min(looks)
        return nanoseconds, counter

    began, first = look()
    time.sleep(_SECONDS)
    ended, last = look()
    return round((last - first) * 1e6 / (ended - began))


def main() -> int:
    """Print {"khz": the frequency}."""
    sys.stdout.write(json.dumps({"khz": measure_counter()}))
    return 0
