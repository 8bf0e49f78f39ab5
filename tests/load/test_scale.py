"""Many pods on one host, started at once and one after the other: each is reached, and all are gone afterwards."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from containerd.daemon import Containerd
from load.conftest import SECONDS_PER_STEP, SECONDS_TO_START, Load

_BOOT_ID = ("cat", "/proc/sys/kernel/random/boot_id")


def _start(daemon: Containerd, stack: ExitStack, name: str, timeout: float) -> float:
    """Start a pod that the stack ends, and return how many seconds that took."""
    begin = time.monotonic()
    stack.enter_context(daemon.hold("sleep", "1000000", name=name, timeout=timeout))
    return time.monotonic() - begin


def _check_pods(daemon: Containerd, names: list[str]) -> None:
    boots = [daemon.execute(name, *_BOOT_ID).out for name in names]

    assert all(boots), "a pod cannot be reached"
    assert len(set(boots)) == len(names), "pods share a VM"


@pytest.mark.parametrize("parallel", [False, True], ids=["one after the other", "at once"])
def test_pods_are_reached_and_leave_nothing(
    current: Containerd, load: Load, parallel: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    before = current.find_traces(current.token)
    names = [current.name("pod") for _ in range(load.pods)]
    timeout = SECONDS_TO_START + SECONDS_PER_STEP * load.pods
    begin = time.monotonic()
    with ExitStack() as stack, ThreadPoolExecutor(load.pods if parallel else 1) as pool:
        seconds = list(pool.map(lambda name: _start(current, stack, name, timeout), names))
        total = time.monotonic() - begin
        _check_pods(current, names)

    assert current.find_traces(current.token) == before
    with capsys.disabled():
        order = "at once" if parallel else "one after the other"
        print(f"\n{load.pods} pods {order}: {total:.1f} s;", ", ".join(f"{one:.1f}" for one in seconds))
