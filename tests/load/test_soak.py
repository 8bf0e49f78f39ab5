"""A pod that has had many containers and processes costs what it cost after the first few."""

from collections.abc import Callable, Iterator

import pytest

from containerd.daemon import RUNTIME, Containerd
from containerd.images import IMAGE
from load.conftest import Load
from load.footprint import Footprint, measure_pod

_ROLE, _SANDBOX = "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"
_WARM_UP = 3
_SLACK = 768
"""KiB that the memory may grow at all: garbage in cycles, which Python collects by and by."""

_GROWTH = 1.0
"""KiB that it may grow for each step besides. What keeps one object of a process for ever takes more."""

_STATE = 64
"""KiB that the state files may grow: logs and the timeline, which are bounded."""


@pytest.fixture(scope="module")
def pod(current: Containerd) -> Iterator[str]:
    with current.hold("sleep", "1000000", flags=("--annotation", f"{_ROLE}=sandbox")) as name:
        yield name


def _soak(
    daemon: Containerd, pod: str, what: str, count: int, step: Callable[[], None], show: pytest.CaptureFixture[str]
) -> None:
    for _ in range(_WARM_UP):
        step()
    before = measure_pod(daemon, pod)
    for _ in range(count):
        step()
    after = measure_pod(daemon, pod)
    with show.disabled():
        print(_describe(what, count, before, after))
    assert not after.find_growth(before), "this grew, and must not"
    assert after.state_kib - before.state_kib <= _STATE
    assert after.memory - before.memory <= _SLACK + _GROWTH * count


def _describe(what: str, count: int, before: Footprint, after: Footprint) -> str:
    grown = after.memory - before.memory
    return f"\n{count} {what}: {grown} KiB more, {grown / max(count, 1):.2f} each\n  before {before}\n  after  {after}"


def test_containers_that_came_and_went_leave_nothing_in_their_pod(
    current: Containerd, pod: str, load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--annotation", f"{_ROLE}=container", "--annotation", f"{_SANDBOX}={pod}")

    def use_container() -> None:
        name = current.name("member")
        current.succeed("run", "-d", "--runtime", RUNTIME, *flags, IMAGE, name, "sleep", "1000000")
        assert current.execute(name, "echo", "here").out == "here\n"
        current.succeed("tasks", "delete", "--force", name)
        current.succeed("containers", "rm", name)

    _soak(current, pod, "containers", load.cycles, use_container, capsys)


def test_processes_that_came_and_went_leave_nothing_in_their_container(
    current: Containerd, pod: str, load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    def use_process() -> None:
        assert current.execute(pod, "echo", "here").out == "here\n"

    _soak(current, pod, "execs", load.execs, use_process, capsys)
