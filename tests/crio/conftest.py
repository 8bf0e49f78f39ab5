"""One CRI-O for the module, in a network namespace of its own, and crictl on it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.images import add_base_images
from crio.crictl import CrioCrictl
from crio.daemon import Crio
from engine_fixtures import guest_image
from netns import enter_network_namespace

__all__ = ["guest_image"]


@pytest.fixture(scope="module")
def crictl(guest_image: Path) -> Iterator[CrioCrictl]:
    place = Path(tempfile.mkdtemp(prefix="kata-o-"))  # short: CRI-O's socket paths have 106 bytes
    try:
        crio = Crio(place, guest_image, add_base_images)
        with enter_network_namespace(), crio:
            crictl = CrioCrictl(crio)
            try:
                yield crictl
            finally:
                crictl.run("rmp", "--force", "--all")
        left = crictl.wait_until_gone(str(place)) | crictl.wait_until_gone(crictl.token)
        assert not left, "left behind:\n" + "\n".join(sorted(left))
    finally:
        shutil.rmtree(place, ignore_errors=True)
