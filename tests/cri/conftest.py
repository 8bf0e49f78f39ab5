"""One containerd with the CRI for the module, in a network namespace of its own, and crictl on it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.crictl import Crictl
from cri.daemon import CriDaemon, find_missing
from cri.images import add_base_images
from engine_fixtures import guest_image
from netns import enter_network_namespace
from peers import require_program

__all__ = ["guest_image"]


@pytest.fixture(scope="module")
def crictl(guest_image: Path) -> Iterator[Crictl]:
    missing = find_missing()
    if missing:
        pytest.skip(f"NO CRI: missing {', '.join(missing)}; run tools/install-host-packages test")
    require_program("cri-tools", "crictl")
    place = Path(tempfile.mkdtemp(prefix="kata-k-"))  # short: containerd's socket paths have 106 bytes
    try:
        daemon = CriDaemon(place, guest_image, add_base_images)
        with enter_network_namespace(), daemon:
            crictl = Crictl(daemon, "kata")
            yield crictl
        left = crictl.find_traces(str(place)) | crictl.find_traces(crictl.token)
        assert not left, "left behind:\n" + "\n".join(sorted(left))
    finally:
        shutil.rmtree(place, ignore_errors=True)
