"""Which accelerator a VM gets: KVM when it is there and fast, else QEMU's TCG.

`/dev/kvm` may open, create VMs and still run them in emulation, tens of times slower than TCG. So it is measured, once
a boot, by `kata.hypervisor.kvmprobe`.
"""

import os
from contextlib import suppress
from typing import Literal, NamedTuple

from kata.errors import ConfigError, UnsupportedError
from kata.hypervisor.probe import run_probe
from kata.sys.kept import keep_answer, recall_answer
from kata.sys.process import read_boot_id

Accelerator = Literal["kvm", "tcg"]

SLOWEST_KVM = 100e6
"""Instructions a second below which KVM is taken to be emulated. Hardware, nested too, does more than 500 million in
the probe's loop; emulations seen did 2 million; TCG itself reaches a few hundred million, and so does the KVM of a
machine that it emulates."""

_KEPT = "accelerator"


class AcceleratorReport(NamedTuple):
    """The decision and why, as a sentence. `speed` is KVM's, in instructions a second; 0 when it does not run."""

    accelerator: Accelerator
    reason: str
    speed: float = 0.0

    @property
    def warning(self) -> str | None:
        """What the operator should be told, if anything."""
        if self.accelerator == "kvm":
            return None
        return f"{self.reason}, so VMs run in emulation (TCG) and are slow"


def probe_accelerator(*, device: str = "/dev/kvm", timeout: float = 10.0) -> AcceleratorReport:
    """Measure now: some milliseconds on working KVM, about a second on an emulated one.

    `timeout` seconds at most, the start of an interpreter on a busy machine included.
    """
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return AcceleratorReport("tcg", f"{device} does not exist")
    except OSError as error:
        return AcceleratorReport("tcg", f"{device} cannot be opened ({error.strerror})")
    if os.uname().machine != "x86_64":
        return AcceleratorReport("kvm", f"{device} opens; its speed is measured on x86-64 only")
    try:
        return judge_answer(run_probe("kata.hypervisor.kvmprobe", SLOWEST_KVM, timeout=timeout))
    except TimeoutError:
        return judge_answer({"error": f"a tiny guest did not halt within {timeout:g} s"})


def judge_answer(answer: dict[str, object]) -> AcceleratorReport:
    """Decide from what the probe printed."""
    speed = answer.get("speed")
    if not isinstance(speed, int | float) or isinstance(speed, bool):
        return AcceleratorReport("tcg", f"KVM runs no guest ({answer.get('error', 'no answer')})")
    millions = f"{speed / 1e6:.1f} million instructions a second"
    if speed < SLOWEST_KVM:
        return AcceleratorReport("tcg", f"KVM runs only {millions}", float(speed))
    return AcceleratorReport("kvm", f"KVM runs {millions}", float(speed))


def find_accelerator(state_directory: str | None) -> AcceleratorReport:
    """The report of this boot, measured on first use and kept in the directory (None: measured each time)."""
    key = _describe_circumstances()
    kept = recall_answer(state_directory, _KEPT, key)
    with suppress(ValueError, KeyError, TypeError):  # nothing, or of another version: measure
        if kept["accelerator"] in {"kvm", "tcg"}:
            return AcceleratorReport(kept["accelerator"], str(kept["reason"]), float(kept["speed"]))
    report = probe_accelerator()
    keep_answer(state_directory, _KEPT, key, report._asdict())
    return report


def _describe_circumstances() -> str:
    """What the answer depends on: this boot, who asks, and the device (it may get fixed without a reboot)."""
    try:
        status = os.stat("/dev/kvm")
        device = f"{status.st_rdev}:{status.st_mode:o}:{status.st_uid}:{status.st_gid}:{status.st_ctime_ns}"
    except OSError:
        device = "none"
    return f"{read_boot_id()} {os.geteuid()} {device}"


def require_kvm(vmm: str, wanted: str, state_directory: str | None) -> None:
    """Raise UnsupportedError for a VMM that cannot emulate, where KVM is of no use or not wanted."""
    if choose_accelerator(wanted, state_directory).accelerator != "kvm":
        reason = choose_accelerator("auto", state_directory).reason
        raise UnsupportedError(f"{vmm} needs KVM, and {reason}", hint="use QEMU, which can emulate")


def choose_accelerator(wanted: str, state_directory: str | None) -> AcceleratorReport:
    """Decide by the configuration: `auto`, `kvm` or `tcg`.

    Raise UnsupportedError when KVM is demanded and useless: a guest that takes an hour to boot only looks like a hang.
    """
    if wanted == "tcg":
        return AcceleratorReport("tcg", "the configuration asks for TCG")
    if wanted not in {"auto", "kvm"}:
        raise ConfigError(f"accelerator {wanted!r} is unknown", hint="one of: auto, kvm, tcg")
    report = find_accelerator(state_directory)
    if wanted == "auto" or report.accelerator == "kvm":
        return report
    hint = 'set accelerator = "auto" to fall back to emulation'
    raise UnsupportedError(f"accelerator kvm was asked for, but {report.reason}", hint=hint)
