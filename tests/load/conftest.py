"""The containerd that is loaded, and how long to: `make soak` sets KATA_SOAK, without it a minute must do."""

import os
from dataclasses import dataclass

import pytest

from containerd.conftest import current, guest_image

__all__ = ["current", "guest_image"]

_SHORT = "5,20,3"
SECONDS_TO_START = 120.0
SECONDS_PER_STEP = 15.0
"""What a container or a pod may cost on an emulated CPU that others use too."""


@dataclass(frozen=True, slots=True)
class Load:
    """How many containers come and go in one pod, how many processes are executed in one, how many pods there are."""

    cycles: int
    execs: int
    pods: int


def _read_load() -> Load:
    text = os.environ.get("KATA_SOAK") or _SHORT
    try:
        cycles, execs, pods = (int(word) for word in text.split(","))
    except ValueError as error:
        raise pytest.UsageError(f"KATA_SOAK is {text}; it must be CYCLES,EXECS,PODS as {_SHORT}") from error
    return Load(cycles, execs, pods)


@pytest.fixture(scope="session")
def load() -> Load:
    return _read_load()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bound each test by what it has to do."""
    load = _read_load()
    seconds = SECONDS_TO_START + SECONDS_PER_STEP * (load.cycles + load.execs + load.pods)
    for item in items:
        if item.path.parent.name == "load":
            item.add_marker(pytest.mark.timeout(seconds))
