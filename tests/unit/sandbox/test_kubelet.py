"""Volumes of Kubernetes, told by where the kubelet keeps them."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from kata.errors import UnsupportedError, UsageError
from kata.sandbox.kubelet import list_published
from kata.sandbox.translation import Translation, translate_spec
from kata.sys.mount import MountPoint


def _make_volume(folder: Path, kind: str) -> Path:
    volume = folder / f"pods/uid/volumes/kubernetes.io~{kind}/name"
    volume.mkdir(parents=True)
    return volume


def _translate(
    source: Path, *options: str, fstype: str = "ext4", limits: list[dict[str, Any]] | None = None
) -> Translation:
    mount = {"destination": "/x", "type": "bind", "source": str(source), "options": ["rbind", *options]}
    spec = {
        "root": {"path": "rootfs"},
        "process": {"args": ["sh"]},
        "mounts": [mount],
        "linux": {"resources": {"hugepageLimits": limits or []}},
    }
    points = [MountPoint(1, 1, "0:1", "/", str(source), "rw", (), fstype, "none")]
    return translate_spec(spec, "c", "/bundle", list_points=lambda: points)


def test_an_empty_directory_in_memory_is_the_guests_tmpfs_of_the_same_size_and_mode(tmp_path: Path) -> None:
    volume = _make_volume(tmp_path, "empty-dir")
    volume.chmod(0o2777)
    translation = _translate(volume, fstype="tmpfs")
    [storage] = translation.storages
    sizes = os.statvfs(volume)
    assert (storage.driver, storage.fstype) == ("ephemeral", "tmpfs")
    assert set(storage.options) == {
        *("mode=2777", f"uid={os.getuid()}", f"gid={volume.stat().st_gid}"),
        f"size={sizes.f_blocks * sizes.f_frsize}",
    }
    assert translation.spec.Mounts[0].source == storage.mount_point
    assert len(translation.shared) == 1


def test_an_empty_directory_on_the_hosts_disk_stays_in_the_share(tmp_path: Path) -> None:
    translation = _translate(_make_volume(tmp_path, "empty-dir"))
    assert (len(translation.shared), translation.storages) == (2, ())


def test_a_tmpfs_of_the_host_that_is_no_empty_directory_stays_in_the_share(tmp_path: Path) -> None:
    translation = _translate(tmp_path, fstype="tmpfs")
    assert (len(translation.shared), translation.storages) == (2, ())


def test_huge_pages_are_the_guests_where_the_container_has_a_limit_of_them(tmp_path: Path) -> None:
    volume = _make_volume(tmp_path, "empty-dir")
    page = os.statvfs(volume).f_bsize
    limit = {"pageSize": f"{page >> 10}KB", "limit": 1 << 21}
    [storage] = _translate(volume, fstype="hugetlbfs", limits=[limit]).storages
    assert storage.fstype == "hugetlbfs"
    assert f"pagesize={page}" in storage.options
    with pytest.raises(UsageError, match="container c has no limit of huge pages"):
        _translate(volume, fstype="hugetlbfs")


@pytest.mark.parametrize("kind", ["configmap", "secret", "projected", "downward-api"])
def test_the_guest_has_a_copy_of_a_volume_that_the_kubelet_changes(tmp_path: Path, kind: str) -> None:
    translation = _translate(_make_volume(tmp_path, kind), "ro")
    [storage] = translation.storages
    shared = translation.shared[1]
    assert (storage.driver, storage.source) == (
        "watchable-bind",
        f"/run/kata-containers/shared/containers/{shared.name}",
    )
    assert translation.spec.Mounts[0].source == storage.mount_point != storage.source
    [place] = list_published(translation.storages, "/share/mounts")
    assert place == (f"/share/mounts/{shared.name}", storage.mount_point)


def test_a_writable_volume_is_no_copy(tmp_path: Path) -> None:
    assert _translate(_make_volume(tmp_path, "configmap")).storages == ()


def test_a_socket_of_the_host_is_refused_and_told_why(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        with pytest.raises(
            UnsupportedError, match=f"container c: the source {path} .* is a socket, and the VM's kernel"
        ):
            _translate(path)


def test_a_fifo_of_the_host_is_refused_and_told_why(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    with pytest.raises(UnsupportedError, match="is a FIFO, and the VM's kernel"):
        _translate(tmp_path / "f")


def test_a_path_in_an_empty_directory_in_memory_is_in_the_same_memory_of_the_guest(tmp_path: Path) -> None:
    volume = _make_volume(tmp_path, "empty-dir")
    part = tmp_path / "pods/uid/volume-subpaths/name/container/0"
    part.mkdir(parents=True)
    mounts = [{"destination": "/x", "type": "bind", "source": str(path)} for path in (volume, part)]
    spec = {"root": {"path": "rootfs"}, "process": {"args": ["sh"]}, "mounts": mounts}
    points = [
        MountPoint(1, 1, "0:9", "/", str(volume), "rw", (), "tmpfs", "none"),
        MountPoint(2, 1, "0:9", "/a/b", str(part), "rw", (), "tmpfs", "none"),
    ]
    translation = translate_spec(spec, "c", "/bundle", list_points=lambda: points)
    memory, beneath = translation.storages
    assert (beneath.driver, beneath.source) == ("beneath", memory.mount_point)
    assert "path=/a/b" in beneath.options
    assert [mount.source for mount in translation.spec.Mounts] == [memory.mount_point, beneath.mount_point]
