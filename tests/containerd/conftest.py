"""One containerd for the module, and a check at its end that nothing of it is left."""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd.daemon import Containerd
from engine_fixtures import guest_image

__all__ = ["guest_image"]


@pytest.fixture(scope="session")
def daemon(guest_image: Path) -> Iterator[Containerd]:
    missing = [name for name in ("containerd", "ctr") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"programs are missing: {', '.join(missing)}; run tools/install-host-packages test")
    place = Path(tempfile.mkdtemp(prefix="kata-c-"))  # short: containerd's socket paths have 106 bytes
    token = f"c{secrets.token_hex(4)}"
    try:
        with Containerd(place, guest_image, token) as daemon:
            yield daemon
        left = daemon.find_traces(token)
        assert not left, "left behind:\n" + "\n".join(sorted(left))
    finally:
        shutil.rmtree(place, ignore_errors=True)
