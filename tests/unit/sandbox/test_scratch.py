"""Disk emptyDirs as disks: what of a container's spec they become, and the files behind them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kata.errors import HostError, UnsupportedError
from kata.sandbox.scratch import count_scratch_volumes, take_scratch_volumes
from kata.sandbox.translation import Translation, translate_spec
from kata.sys.mount import list_mounts


def _look(look: Callable[[], Any]) -> Any:
    return look()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    volume = tmp_path / "pods/uid/volumes/kubernetes.io~empty-dir/name"
    volume.mkdir(parents=True)
    volume.chmod(0o2770)
    return volume


def _make_spec(*sources: Path) -> dict[str, Any]:
    mounts = [
        {"destination": f"/x{number}", "type": "bind", "source": str(source), "options": ["rbind"]}
        for number, source in enumerate(sources)
    ]
    return {"root": {"path": "rootfs"}, "process": {"args": ["sh"]}, "mounts": mounts}


def _translate(*sources: Path) -> Translation:
    return translate_spec(_make_spec(*sources), "c", "/bundle", list_points=tuple)


def test_an_empty_directory_is_a_sparse_file_as_big_as_its_file_system(volume: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    translation, [scratch] = take_scratch_volumes(_translate(volume, other), _look, list_mounts)

    status, sizes = os.stat(scratch.image), os.statvfs(volume)
    assert Path(scratch.image).parent == volume
    assert 0 <= sizes.f_blocks * sizes.f_frsize - status.st_size < 1 << 20
    assert (status.st_blocks, status.st_mode & 0o777) == (0, 0o600)
    assert scratch.making == ("create_filesystem", "mode=2770", f"uid={os.getuid()}", f"gid={volume.stat().st_gid}")
    assert [Path(shared.source).name for shared in translation.shared] == ["rootfs", "other"]
    assert translation.spec.Mounts[0].source == scratch.place


def test_one_that_has_a_file_system_keeps_it(volume: Path) -> None:
    _, [before] = take_scratch_volumes(_translate(volume), _look, list_mounts)
    with open(before.image, "r+b") as file:
        file.seek(1024 + 0x38)
        file.write(b"\x53\xef")
    size = os.stat(before.image).st_size

    _, [after] = take_scratch_volumes(_translate(volume, volume), _look, list_mounts)

    assert (after.place, after.making) == (before.place, ())
    assert os.stat(after.image).st_size == size


def test_a_link_in_its_place_leads_nowhere(volume: Path, tmp_path: Path) -> None:
    (volume / "disk.img").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match=r"cannot be a disk: .*disk\.img"):
        take_scratch_volumes(_translate(volume), _look, list_mounts)
    assert not (tmp_path / "elsewhere").exists()


def test_a_path_that_is_no_mount_of_the_volume_is_refused(volume: Path, tmp_path: Path) -> None:
    part = tmp_path / "pods/uid/volume-subpaths/name/main/0"
    part.mkdir(parents=True)
    with pytest.raises(UnsupportedError, match=f"{part} is nowhere in the emptyDir {volume}"):
        take_scratch_volumes(_translate(part), _look, list_mounts)


def test_disks_are_counted_once_for_each_volume(volume: Path, tmp_path: Path) -> None:
    assert count_scratch_volumes(_make_spec(volume, volume, tmp_path)) == 1
