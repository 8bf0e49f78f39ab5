"""Volumes that a test mounts on the host, as a kubelet does, and who still has them."""

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.sys import linux, mount


class PrivateFolder:
    """A directory below which mounts are made that get to no other mount namespace by themselves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._token = f"v{secrets.token_hex(4)}"

    def mount_volume(self, name: str) -> Path:
        """Mount an empty file system of its own and return where."""
        volume = self.path / name
        volume.mkdir()
        linux.mount(f"{self._token}-{name}", str(volume), "tmpfs")
        return volume

    def unmount_volume(self, volume: Path) -> None:
        """Unmount it. Raise OSError where it is in use on the host."""
        assert mount.unmount(str(volume))

    def wait_until_free(self, volume: Path, *, timeout: float = 30.0) -> set[str]:
        """Wait until no process has the volume mounted. Return the directories in /proc of those that have it then."""
        deadline = time.monotonic() + timeout
        while (holders := self._find_holders(volume)) and time.monotonic() < deadline:
            pass
        return holders

    def _find_holders(self, volume: Path) -> set[str]:
        source = f"{self._token}-{volume.name}"
        found = set()
        for process in Path("/proc").iterdir():
            try:
                text = (process / "mountinfo").read_text(errors="replace") if process.name.isdigit() else ""
            except OSError:  # it ended, or it is a zombie
                continue
            if source in text:
                found.add(str(process))
        return found


@pytest.fixture
def private_folder(tmp_path: Path) -> Iterator[PrivateFolder]:
    """A directory for volumes; what is mounted there goes with the test."""
    mount.bind(str(tmp_path), str(tmp_path))
    try:
        mount.set_propagation(str(tmp_path), linux.MS_PRIVATE)
        yield PrivateFolder(tmp_path)
    finally:
        mount.unmount_below(str(tmp_path))
