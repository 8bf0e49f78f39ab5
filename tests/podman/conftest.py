"""What every test with Podman needs: the programs, the images, and one container for those that only look."""

import os
import shutil
from collections.abc import Iterator

import pytest

from podman.engine import RUNTIME, find_runtime, running
from podman.images import BUSYBOX, load_image


@pytest.fixture(scope="session", autouse=True)
def _machine() -> None:
    if os.geteuid():
        pytest.skip("Podman's tests need root")
    missing = [name for name in ("podman", "conmon", "mmdebstrap") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"programs are missing: {', '.join(missing)}; run tools/install-host-packages test")
    if find_runtime() is None:
        pytest.skip(f"there is no runtime {RUNTIME}; run `make install`, or set KATA_TEST_RUNTIME")


@pytest.fixture(scope="session")
def busybox(_machine: None) -> str:
    return load_image(BUSYBOX)


@pytest.fixture(scope="module")
def sleeper(busybox: str) -> Iterator[str]:
    """A container that waits, shared by the tests that do not change it."""
    with running(busybox, "sh", "-c", "trap 'exit 0' TERM; echo started; sleep 100000 & wait") as name:
        yield name
