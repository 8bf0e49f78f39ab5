"""Pods whose VM shares no files with the host, as a kubelet asks for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.crictl import Crictl


@pytest.fixture
def unshared(crictl: Crictl) -> Iterator[Crictl]:
    file = crictl.daemon.place / "kata.toml"
    before = file.read_text()
    file.write_text(f'{before}shared_fs = "none"\n')
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
