"""Pods whose VM has something else than files of the host, as a kubelet asks for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.crictl import Crictl


@pytest.fixture
def unshared(crictl: Crictl) -> Iterator[Crictl]:
    yield from _configure(crictl, 'shared_fs = "none"\n')


@pytest.fixture
def on_disks(crictl: Crictl) -> Iterator[Crictl]:
    yield from _configure(crictl, '\n[runtime]\nemptydir_mode = "block-plain"\n')


def _configure(crictl: Crictl, more: str) -> Iterator[Crictl]:
    file = crictl.daemon.place / "kata.toml"
    before = file.read_text()
    file.write_text(before + more)
    yield crictl
    file.write_text(before)


def test_a_pod_runs_with_its_volumes_as_copies(unshared: Crictl, tmp_path: Path) -> None:
    (tmp_path / "kubernetes.io~secret/secret").mkdir(parents=True)
    (tmp_path / "kubernetes.io~secret/secret/key").write_text("hidden\n")
    scratch = tmp_path / "kubernetes.io~empty-dir/scratch"
    scratch.mkdir(parents=True)
    message = tmp_path / "pods/uid/containers/main/0a1b2c3d"
    message.parent.mkdir(parents=True)
    message.touch()
    mounts = [
        {"host_path": str(message), "container_path": "/dev/termination-log"},
        {"host_path": str(tmp_path / "kubernetes.io~secret/secret"), "container_path": "/secret", "readonly": True},
        {"host_path": str(scratch), "container_path": "/scratch"},
    ]
    with unshared.hold_pod() as pod:
        script = "cat /secret/key; echo for both > /scratch/file; echo done > /dev/termination-log"
        first = unshared.start(pod, "sh", "-c", script, mounts=mounts)
        unshared.wait_for_exit(first)
        assert message.read_text() == "done\n"
        second = unshared.start(pod, "sh", "-c", "cat /scratch/file; grep -c virtiofs /proc/mounts", mounts=mounts)
        unshared.wait_for_exit(second)
        logs = unshared.succeed("logs", first) + unshared.succeed("logs", second)
        unshared.succeed("rm", first, second)

    assert logs == "hidden\nfor both\n0\n"


def test_an_empty_dir_is_a_disk_that_outlives_containers_and_the_sandbox_and_is_the_kubelets(
    on_disks: Crictl, tmp_path: Path
) -> None:
    scratch = tmp_path / "pods/uid/volumes/kubernetes.io~empty-dir/scratch"
    scratch.mkdir(parents=True)
    scratch.chmod(0o777)
    mounts = [{"host_path": str(scratch), "container_path": "/scratch"}]
    with on_disks.hold_pod() as pod:
        first = on_disks.start(pod, "sh", "-c", "ls -A /scratch; echo of the first > /scratch/file", mounts=mounts)
        on_disks.wait_for_exit(first)
        assert on_disks.succeed("logs", first) == ""
        on_disks.succeed("rm", first)
        script = "cat /scratch/file; grep ' /scratch ' /proc/mounts | cut -d ' ' -f 3; sleep 1000"
        second = on_disks.start(pod, "sh", "-c", script, mounts=mounts)
        on_disks.wait_for_log(second, "ext4")
        assert on_disks.succeed("logs", second) == "of the first\next4\n"
    with on_disks.hold_pod() as pod:
        third = on_disks.start(pod, "cat", "/scratch/file", mounts=mounts)
        on_disks.wait_for_exit(third)
        assert on_disks.succeed("logs", third) == "of the first\n"
    assert [path.name for path in scratch.iterdir()] == ["disk.img"]
