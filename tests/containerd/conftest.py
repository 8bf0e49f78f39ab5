"""The containerds that tests share, and a check at the end of each that nothing of it is left."""

import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd.daemon import Containerd
from engine_fixtures import guest_image
from peers import find_program, list_versions, require_installed, require_program

__all__ = ["guest_image"]

DEBIAN = "debian"
_TRACE = """
[debug]
  level = "trace"
"""


@pytest.fixture(scope="session")
def current(guest_image: Path) -> Iterator[Containerd]:
    """The newest containerd that is there, with every snapshotter that it can have: for what no version changes."""
    program = find_program("containerd", "containerd") or require_installed("containerd")
    yield from _run_daemon(guest_image, Path(program).parent, with_blocks=True)


@pytest.fixture(scope="session", params=[DEBIAN, *list_versions("containerd")])
def daemon(request: pytest.FixtureRequest, guest_image: Path) -> Iterator[Containerd]:
    """A containerd of each version in turn."""
    version: str = request.param
    if version == DEBIAN:
        program = require_installed("containerd")
    else:
        program = require_program("containerd", "containerd", version)
    yield from _run_daemon(guest_image, Path(program).parent)


def _run_daemon(image: Path, programs: Path, *, with_blocks: bool = False) -> Iterator[Containerd]:
    place = Path(tempfile.mkdtemp(prefix="kata-c-"))  # short: containerd's socket paths have 106 bytes
    token = f"c{secrets.token_hex(4)}"
    more = _TRACE + _configure_blockfile(place) if with_blocks else ""
    try:
        with Containerd(place, image, token, programs, more) as daemon:
            yield daemon
        left = daemon.find_traces(token)
        assert not left, "left behind:\n" + "\n".join(sorted(left))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _configure_blockfile(place: Path) -> str:
    """Make the file system that the snapshotter of that name copies for each snapshot."""
    scratch = place / "scratch"
    with scratch.open("wb") as file:
        file.truncate(64 << 20)
    if shutil.which("mkfs.ext4") is None:
        return ""
    subprocess.run(["mkfs.ext4", "-q", str(scratch)], check=True, timeout=30)
    return f"""
[plugins."io.containerd.snapshotter.v1.blockfile"]
  scratch_file = "{scratch}"
  fs_type = "ext4"
  mount_options = []
  recreate_scratch = true
[plugins."io.containerd.snapshotter.v1.erofs"]
  default_size = "64MiB"
"""
