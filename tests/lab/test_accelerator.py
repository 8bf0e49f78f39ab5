"""The lab's KVM is that of an emulated processor, and KVM all the same: `auto` has to take it, under load too."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kata.hypervisor.accelerator import probe_accelerator

_HOGS_PER_CPU = 3


@pytest.fixture
def _busy() -> Iterator[None]:
    """Processes that do nothing, without end, on each processor."""
    count = _HOGS_PER_CPU * (os.cpu_count() or 1)
    hogs = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    yield
    for hog in hogs:
        hog.kill()
        hog.wait(10)


@pytest.mark.timeout(120)
@pytest.mark.skipif(not os.environ.get("KATA_LAB"), reason="NOT THE LAB: KVM is not known to be of use here")
@pytest.mark.usefixtures("_busy")
def test_kvm_is_found_while_every_processor_is_busy() -> None:
    reports = [probe_accelerator() for _ in range(5)]
    assert {report.accelerator for report in reports} == {"kvm"}, reports
