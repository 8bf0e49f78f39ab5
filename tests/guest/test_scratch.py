"""Disk emptyDirs of Kubernetes as disks of the VM."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import HYPERVISOR, Container, Engine, add_mount
from guest.test_disk_roots import LIST_DISKS
from kata.sys import linux, mount
from polling import wait_until

_MIB = 1 << 20
_GIVES_BACK = HYPERVISOR != "firecracker"
"""Its disks know no discard: what the guest has written once stays in the file."""


@pytest.fixture(scope="module", autouse=True)
def _on_disks(engine: Engine) -> Iterator[None]:
    engine.configure('\n[runtime]\nemptydir_mode = "block-plain"\n')
    yield
    engine.configure("")


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Path]:
    """The directory of a pod, as the kubelet has it, on a file system of 64 MiB."""
    linux.mount("none", str(tmp_path), "tmpfs", data="size=64m")
    yield tmp_path / "pods/uid"
    mount.unmount_below(str(tmp_path))


@pytest.fixture
def volume(kubelet: Path) -> Path:
    """An emptyDir of a pod that has an fsGroup."""
    volume = kubelet / "volumes/kubernetes.io~empty-dir/scratch"
    volume.mkdir(parents=True)
    os.chown(volume, 0, 1000)
    volume.chmod(0o2777)
    return volume


def measure(volume: Path) -> int:
    """Return the bytes of the host's disk that a volume takes, as the kubelet counts them."""
    return sum(path.lstat().st_blocks * 512 for path in volume.iterdir())


def test_an_empty_directory_is_a_file_system_of_its_own_that_lasts_as_long_as_its_pod(
    engine: Engine, pod: Container, volume: Path
) -> None:
    change = add_mount("/scratch", "bind", str(volume), "rbind", "rw")
    script = "ls -A /scratch; stat -c '%a %g' /scratch; grep ' /scratch ' /proc/mounts | cut -d ' ' -f 3"
    disks = pod.ask("sh", "-c", LIST_DISKS)
    with engine.hold("sleep", "1000", pod=pod.id, change=change) as first:
        assert first.ask("sh", "-c", script) == "2777 1000\next4\n"
        block, count = first.ask("stat", "-f", "-c", "%S %b", "/scratch").split()
        assert 48 * _MIB < int(block) * int(count) <= 64 * _MIB
        assert [path.name for path in volume.iterdir()] == ["disk.img"]
        assert measure(volume) < 4 * _MIB

        first.ask("sh", "-c", "head -c 8388608 /dev/urandom >/scratch/big; sync")
        assert 8 * _MIB <= measure(volume) < 12 * _MIB
        first.ask("sh", "-c", "rm /scratch/big; sync")
        if _GIVES_BACK:
            wait_until(lambda: measure(volume) < 4 * _MIB)
        assert "No space left" in first.execute("dd", "if=/dev/zero", "of=/scratch/big", "bs=1M", "count=70").err
        first.ask("sh", "-c", "rm /scratch/big; echo kept >/scratch/file")

        second = engine.run_container("cat", "/scratch/file", pod=pod.id, change=change)
        assert second.text == "kept\n", second
    assert pod.ask("sh", "-c", LIST_DISKS) == disks
    again = engine.run_container("cat", "/scratch/file", pod=pod.id, change=change)
    assert again.text == "kept\n", again


def test_a_path_in_it_is_the_same_directory_in_all_containers(
    engine: Engine, pod: Container, kubelet: Path, volume: Path
) -> None:
    (volume / "deep/one").mkdir(parents=True)
    os.chown(volume / "deep/one", 1000, 1000)
    (volume / "deep/one").chmod(0o777)
    place = kubelet / "volume-subpaths/scratch/main/0"
    place.mkdir(parents=True)
    mount.bind(str(volume / "deep/one"), str(place))
    part = add_mount("/part", "bind", str(place), "rbind", "rw")
    whole = add_mount("/all", "bind", str(volume), "rbind", "rw")
    with engine.hold("sleep", "1000", pod=pod.id, change=part) as first:
        assert first.ask("sh", "-c", "stat -c %u /part; echo here >/part/file") == "1000\n"
        second = engine.run_container("cat", "/all/deep/one/file", pod=pod.id, change=whole)
        assert second.text == "here\n", second
    mount.unmount(str(place))


def test_a_volume_that_another_vm_has_is_refused(engine: Engine, pod: Container, volume: Path) -> None:
    change = add_mount("/scratch", "bind", str(volume), "rbind", "rw")
    with engine.hold("sleep", "1000", pod=pod.id, change=change) as held:
        # Else the guest's kernel writes zeros in the background, which take room on the host.
        assert "noinit_itable" in held.ask("grep", " /scratch ", "/proc/mounts")
        refused = engine.run_container("true", change=change)
    assert refused.code
    assert f"{volume}/disk.img cannot be a disk of the VM: another VM" in refused.err
