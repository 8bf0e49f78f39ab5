"""One run of L1: a job goes in as a tar on a disk, its results come out as a tar on another."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

from kata.hypervisor.tscprobe import measure_counter
from lab.image import Level1

_RESULTS_SIZE = 256 << 20
_MEMORY_MIB = 4096
FOOTPRINT_MIB = _MEMORY_MIB + 2048
"""What a run takes of the host's memory: L1's, and QEMU's translated code."""

RNG = "0000:00:08.0"
CARD = "0000:00:09.0"
PAIR = ("0000:00:0a.0", "0000:00:0a.1")
"""PCI devices that L1 has for its VMs: a source of entropy, a network card, and two devices of one IOMMU group."""

GATEWAY = "10.0.2.2"
"""What answers at the other end of that card. Source: QEMU's -netdev user."""

# What no job needs to know: L1's clock is QEMU's, so the kernel need not watch it; and it may be turned off by panic.
# It does not measure the clock itself: with several L1s side by side it was wrong by 3 and by 13 times.
_PARAMETERS = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check nowatchdog intel_iommu=on "
    "systemd.unified_cgroup_hierarchy=1 tsc_early_khz={khz}"
)
# `max` would be slower and has no CPUID leaves 0x8000001d and 0x8000001e, which Firecracker reads on AMD's processors.
_CPU = "EPYC,+svm"
_FOR_VFIO = "iommu_platform=on,disable-legacy=on"


class Outcome(NamedTuple):
    """`finished` says that L1 came to its end; `status` is the job's, -1 where it left none."""

    finished: bool
    status: int


def list_arguments(level1: Level1, job: Path, results: Path) -> list[str]:
    """QEMU's command line. The devices from 08.0 on are there to be passed on by VFIO, hence intel_iommu=on."""
    disks: list[str] = []
    for path, options in ((level1.root, "snapshot=on"), (job, "readonly=on"), (results, "cache=unsafe")):
        disks += ["-drive", f"file={path},format=raw,if=virtio,{options}"]
    parameters = _PARAMETERS.format(khz=measure_counter())
    return [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=1024", "-M", "q35,kernel-irqchip=split"),
        *("-cpu", _CPU, "-smp", "2", "-m", str(_MEMORY_MIB)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
        *("-device", "intel-iommu,intremap=on,eim=off"),
        *("-object", "rng-random,id=entropy,filename=/dev/urandom"),
        *("-device", f"virtio-rng-pci,rng=entropy,{_FOR_VFIO},addr=08.0"),
        *(
            "-netdev",
            "user,id=card,restrict=on",
            "-device",
            f"virtio-net-pci,netdev=card,{_FOR_VFIO},romfile=,addr=09.0",
        ),
        *("-device", f"virtio-rng-pci,rng=entropy,{_FOR_VFIO},addr=0a.0,multifunction=on"),
        *("-device", f"virtio-rng-pci,rng=entropy,{_FOR_VFIO},addr=0a.1"),
        *disks,
        *("-kernel", str(level1.kernel), "-initrd", str(level1.initrd), "-append", parameters),
    ]


def run_level1(level1: Level1, job: Path, directory: Path, *, timeout: float) -> Outcome:
    """Run a job, `timeout` seconds at most. What it left is unpacked to `directory/results`, beside `console.log`."""
    results = directory / "results.tar"
    results.unlink(missing_ok=True)
    with results.open("wb") as file:
        file.truncate(_RESULTS_SIZE)
    with (directory / "console.log").open("wb") as console:
        argv = list_arguments(level1, job, results)
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        try:
            finished = process.wait(timeout) == 0
        except subprocess.TimeoutExpired:
            finished = False
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    status = _unpack(results, directory / "results") if finished else -1
    os.unlink(results)
    return Outcome(finished, status)


def _unpack(results: Path, directory: Path) -> int:
    shutil.rmtree(directory, ignore_errors=True)  # what an attempt before left
    directory.mkdir()
    subprocess.run(["tar", "-x", "-f", str(results), "-C", str(directory)], check=False, timeout=60)
    try:
        return int((directory / "status").read_text())
    except (OSError, ValueError):
        return -1
