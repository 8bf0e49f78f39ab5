"""The frequency of this machine's time stamp counter, which is that of an emulated guest's too.

A guest's kernel that measures it itself, by emulated timers on a busy host, may be wrong by ten times. Then its clock
runs as many times too fast, and all that has a time limit fails. Source: `cpu_get_ticks` in QEMU's
softmmu/cpu-timers.c; arch/x86/kernel/tsc.c in the kernel tree.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress

from kata.sys.file import read_text, replace_file
from kata.sys.process import read_boot_id

_CACHE = "tsc.json"
_PROBE = "import sys; sys.path.insert(0, sys.argv[1]); from kata.hypervisor.tscprobe import main; sys.exit(main())"
_TIMEOUT = 10.0
_FLAG = " constant_tsc "
"""What proc(5)'s cpuinfo says of a counter whose frequency is always the same."""


def find_counter_khz(state_directory: str | None) -> int:
    """Return kHz, measured on first use after a boot and kept in the directory (None: measured each time).

    0 where it is not known, or changes.
    """
    path = None if state_directory is None else os.path.join(state_directory, _CACHE)
    boot = read_boot_id()
    if path is not None:
        # Absent, half written or of another boot: measure.
        with suppress(OSError, ValueError, KeyError, TypeError), open(path, encoding="utf-8") as file:
            kept = json.load(file)
            if kept["boot"] == boot:
                return int(kept["khz"])
    khz = _measure() if _is_constant() else 0
    if path is not None:
        # A directory that cannot be written means measuring again next time.
        with suppress(OSError):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            replace_file(path, json.dumps({"boot": boot, "khz": khz}))
    return khz


def _is_constant() -> bool:
    return _FLAG in read_text("/proc/cpuinfo")


def _measure() -> int:
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    argv = [sys.executable, "-I", "-S", "-c", _PROBE, folder]
    with suppress(subprocess.TimeoutExpired, ValueError):
        done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT, check=False)
        return int(done.stdout)
    return 0
