"""Directories as images: made once, found again, and dropped when there are too many."""

import os
import shutil
import time
from pathlib import Path

import pytest

from kata.errors import HostError
from kata.storage import pack
from kata.sys.superblock import find_filesystem

pytestmark = pytest.mark.skipif(shutil.which("mkfs.erofs") is None, reason="MISSING mkfs.erofs: erofs-utils")


def pack_path(directory: Path, cache: Path) -> Path:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return Path(pack.pack_directory(str(directory), descriptor, cache=str(cache)))
    finally:
        os.close(descriptor)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    (directory / "deep").mkdir(parents=True)
    (directory / "deep/file").write_text("text")
    (directory / "link").symlink_to("deep/file")
    return directory


def test_an_image_is_made_once_for_what_a_directory_holds(directory: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    image = pack_path(directory, cache)
    made = image.stat().st_ino
    descriptor = os.open(image, os.O_RDONLY)
    assert find_filesystem(descriptor) == "erofs"
    os.close(descriptor)
    assert pack_path(directory, cache).stat().st_ino == made
    assert [path.name for path in cache.iterdir()] == [image.name]


def test_a_copy_of_the_directory_above_is_the_same_and_another_file_is_not(directory: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    image = pack_path(directory, cache)
    moved = directory.rename(tmp_path / "other")  # its own times are new, those of its files are not
    os.utime(moved)
    assert pack_path(moved, cache) == image
    (moved / "deep/file").write_text("tex2")
    assert pack_path(moved, cache) != image
    (moved / "link").unlink()
    (moved / "link").symlink_to("deep")
    assert len({path.name for path in cache.iterdir()} | {pack_path(moved, cache).name}) == 3


def test_what_was_not_used_for_the_longest_time_goes_first(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = pack_path(directory, cache)
    (directory / "one").write_text("1")
    second = pack_path(directory, cache)
    past = time.time() - 1000
    os.utime(second, (past, past))
    monkeypatch.setattr(pack, "MOST_BYTES", first.stat().st_blocks * 512 * 2)
    (directory / "two").write_text("2")
    third = pack_path(directory, cache)
    assert set(cache.iterdir()) == {first, third}


def test_a_tool_that_fails_is_quoted_and_leaves_nothing(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin/mkfs.erofs"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho no room >&2\nexit 3\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    with pytest.raises(HostError, match=f"{directory} cannot be packed: .* status 3: no room"):
        pack_path(directory, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
