"""The frequency of this machine's time stamp counter, which is that of an emulated guest's too.

A guest's kernel that measures it itself, by emulated timers on a busy host, may be wrong by ten times. Then its clock
runs as many times too fast, and all that has a time limit fails. Source: `cpu_get_ticks` in QEMU's
softmmu/cpu-timers.c; arch/x86/kernel/tsc.c in the kernel tree.
"""

from contextlib import suppress

from kata.hypervisor.probe import run_probe
from kata.sys.file import read_text
from kata.sys.kept import keep_answer, recall_answer
from kata.sys.process import read_boot_id

_KEPT = "tsc"
_TIMEOUT = 10.0
_FLAG = " constant_tsc "
"""What proc(5)'s cpuinfo says of a counter whose frequency is always the same."""


def find_counter_khz(state_directory: str | None) -> int:
    """Return kHz, measured on first use after a boot and kept in the directory (None: measured each time).

    0 where it cannot be measured, or changes.
    """
    boot = read_boot_id()
    with suppress(ValueError, KeyError, TypeError):  # nothing, or of another version: measure
        return int(recall_answer(state_directory, _KEPT, boot)["khz"])
    khz = _measure() if _is_constant() else 0
    if khz:
        keep_answer(state_directory, _KEPT, boot, {"khz": khz})
    return khz


def _is_constant() -> bool:
    return _FLAG in read_text("/proc/cpuinfo")


def _measure() -> int:
    with suppress(TimeoutError, KeyError):
        return int(str(run_probe("kata.hypervisor.tscprobe", timeout=_TIMEOUT)["khz"]))
    return 0
