"""What two VMs may have at once: real locks, real loop devices."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kata.errors import StateError
from kata.storage.claim import claim_disk
from loop import attach_loop
from privilege import needs_root

_HOLD = """
import os, signal, sys
from kata.storage.claim import claim_disk
claim_disk(os.open(sys.argv[1], os.O_RDWR), readonly=False)
print("held", flush=True)
signal.pause()
"""


@contextmanager
def claimed(path: Path | str, *, readonly: bool) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY if readonly else os.O_RDWR)
    try:
        claim = claim_disk(descriptor, readonly=readonly)
    finally:
        os.close(descriptor)
    try:
        yield claim
    finally:
        os.close(claim)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "image").write_bytes(bytes(4096))
    return tmp_path / "image"


def check_refusal(path: Path | str, word: str, *, readonly: bool) -> None:
    with pytest.raises(StateError, match=word), claimed(path, readonly=readonly):
        pass


def test_a_file_that_is_written_is_for_nobody_else_by_any_of_its_names(image: Path) -> None:
    other = image.with_name("other")
    other.hardlink_to(image)
    with claimed(image, readonly=False):
        check_refusal(image, "has it", readonly=False)
        check_refusal(other, "writes to it", readonly=True)
    with claimed(other, readonly=False):
        pass


def test_any_number_read_a_file_and_nobody_writes_it_meanwhile(image: Path) -> None:
    with claimed(image, readonly=True), claimed(image, readonly=True):
        check_refusal(image, "has it", readonly=False)
    with claimed(image, readonly=False):
        pass


def test_a_claim_ends_with_its_process_however_that_ends(image: Path) -> None:
    environment = {"PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(image)], env=environment, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        check_refusal(image, "has it", readonly=False)
        child.kill()
    with claimed(image, readonly=False):
        pass


@needs_root
def test_a_block_device_that_is_written_is_for_nobody_else(tmp_path: Path) -> None:
    with attach_loop(tmp_path / "disk") as device:
        with claimed(device, readonly=False):
            check_refusal(device, "a disk of another VM", readonly=False)
            check_refusal(device, "writes to it", readonly=True)
        with claimed(device, readonly=True), claimed(device, readonly=True):
            check_refusal(device, "has it", readonly=False)


@needs_root
def test_a_block_device_that_is_mounted_on_the_host_is_not_written_by_a_guest(tmp_path: Path) -> None:
    with attach_loop(tmp_path / "disk") as device:
        subprocess.run(["mkfs.ext4", "-q", device], check=True, timeout=60)
        place = tmp_path / "place"
        place.mkdir()
        subprocess.run(["mount", "-o", "ro", device, str(place)], check=True, timeout=60)
        try:
            check_refusal(device, "mounted on the host", readonly=False)
            with claimed(device, readonly=True):
                pass
        finally:
            subprocess.run(["umount", str(place)], check=True, timeout=60)
