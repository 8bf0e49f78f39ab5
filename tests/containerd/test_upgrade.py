"""Another version of containerd takes over what one before it has started."""

import json
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd.daemon import Containerd
from peers import require_installed, require_program


@pytest.fixture
def debian(guest_image: Path) -> Iterator[Containerd]:
    """Debian's containerd, of the test's own, with what containerd 2 needs beside it."""
    programs = Path(require_installed("containerd")).parent
    place = Path(tempfile.mkdtemp(prefix="kata-c-"))  # short: containerd's socket paths have 106 bytes
    token = f"c{secrets.token_hex(4)}"
    try:
        with Containerd(place, guest_image, token, programs) as daemon:
            yield daemon
        assert not daemon.find_traces(token)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_a_container_goes_on_and_is_fully_manageable_when_containerd_is_upgraded(debian: Containerd) -> None:
    current = Path(require_program("containerd", "containerd")).parent
    if current == debian.programs:
        pytest.skip("NO OTHER containerd than Debian's here: run tools/build-peer containerd")
    with debian.hold("sleep", "1000") as name:
        before = debian.find_pid(name)
        debian.stop()
        debian.programs = current
        debian.start()

        assert debian.find_pid(name) == before
        assert debian.execute(name, "echo", "still here").out == "still here\n"
        debian.succeed("tasks", "pause", name)
        assert debian.find_status(name) == "PAUSED"
        debian.succeed("tasks", "resume", name)
        assert json.loads(debian.succeed("tasks", "metrics", "--format", "json", name))
        assert debian.run_container("echo", "new").out == "new\n"
    assert not debian.find_traces(name)
