"""Volumes of pods, as a kubelet asks for them, seen with crictl."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.crictl import Crictl, require_sandbox_api
from kata.sys import linux, mount
from loop import attach_loop

_FROM_HOST = 1
"""MountPropagation.PROPAGATION_HOST_TO_CONTAINER. Source: k8s.io/cri-api, runtime/v1/api.proto."""


@pytest.fixture(scope="module")
def pod(crictl: Crictl) -> Iterator[str]:
    """A pod that the module's tests share."""
    with crictl.hold_pod() as pod:
        yield pod


@pytest.fixture
def shared_folder(tmp_path: Path) -> Iterator[Path]:
    """A directory whose mounts propagate, as `/` of a host that systemd started, with an empty one in it."""
    mount.bind(str(tmp_path), str(tmp_path))
    try:
        mount.set_propagation(str(tmp_path), linux.MS_PRIVATE)
        mount.set_propagation(str(tmp_path), linux.MS_SHARED)
        (tmp_path / "below").mkdir()
        yield tmp_path
    finally:
        mount.unmount_below(str(tmp_path))


def _mount_file(place: Path, content: str) -> None:
    linux.mount("none", str(place), "tmpfs")
    (place / "file").write_text(content)


def test_what_the_host_mounts_below_a_volume_comes_and_can_be_unmounted_while_a_container_has_it_open(
    crictl: Crictl, pod: str, shared_folder: Path
) -> None:
    mounts = [{"host_path": str(shared_folder), "container_path": "/volume", "propagation": _FROM_HOST}]
    container = crictl.start(pod, "sleep", "1000", mounts=mounts)
    before = crictl.execute(container, "ls", "/volume/below").out
    _mount_file(shared_folder / "below", "mounted later\n")
    wait = "until [ -e /volume/below/file ]; do sleep 0.1; done; cat /volume/below/file; exec 3</volume/below/file"
    seen = crictl.execute(container, "sh", "-c", f"{wait}; sleep 1000 >/dev/null 2>&1 &", flags=("-s",)).out
    assert mount.unmount(str(shared_folder / "below"))
    gone = crictl.execute(
        container, "sh", "-c", "while [ -e /volume/below/file ]; do sleep 0.1; done; ls /volume/below"
    )
    crictl.succeed("rm", "--force", container)

    assert (before, seen.strip(), gone.out, gone.code) == ("", "mounted later", "", 0)


@pytest.mark.parametrize(("recursive", "written"), [(False, True), (True, False)])
def test_read_only_reaches_what_is_mounted_below_a_volume_only_when_asked_for(
    crictl: Crictl, pod: str, shared_folder: Path, recursive: bool, written: bool
) -> None:
    if recursive:
        require_sandbox_api(crictl)  # of containerd 2 too
    _mount_file(shared_folder / "below", "there\n")
    mounts = [
        {
            "host_path": str(shared_folder),
            "container_path": "/volume",
            "readonly": True,
            "recursive_read_only": recursive,
        }
    ]
    container = crictl.start(pod, "sleep", "1000", mounts=mounts)
    tried = crictl.execute(container, "sh", "-c", "! touch /volume/file && touch /volume/below/new", flags=("-s",))
    crictl.succeed("rm", "--force", container)

    assert (shared_folder / "below/new").exists() == written, tried
    assert not (shared_folder / "file").exists()
    assert "Read-only file system" in tried.err + tried.out


def test_a_path_in_a_volume_is_mounted_by_itself(crictl: Crictl, pod: str, tmp_path: Path) -> None:
    (tmp_path / "one/deep").mkdir(parents=True)
    (tmp_path / "one/deep/file").write_text("this one\n")
    (tmp_path / "two").mkdir()
    (tmp_path / "link").symlink_to("one/deep")
    mounts = [
        {"host_path": str(tmp_path / "one/deep"), "container_path": "/directory"},
        {"host_path": str(tmp_path / "one/deep/file"), "container_path": "/etc/single"},
        {"host_path": str(tmp_path / "link"), "container_path": "/linked"},
    ]
    container = crictl.start(pod, "sh", "-c", "cat /directory/file /etc/single /linked/file; ls /", mounts=mounts)
    crictl.wait_for_exit(container)
    lines = crictl.succeed("logs", container).splitlines()
    crictl.succeed("rm", container)

    assert lines[:3] == ["this one"] * 3
    assert "two" not in lines


def test_a_block_device_is_in_the_container_it_was_given_to(crictl: Crictl, pod: str, tmp_path: Path) -> None:
    with attach_loop(tmp_path / "disk") as device:
        given = [{"host_path": device, "container_path": "/dev/disk", "permissions": "rwm"}]
        container = crictl.start(pod, "sleep", "1000", devices=given)
        read = crictl.execute(container, "head", "-n", "1", "/dev/disk")
        crictl.succeed("rm", "--force", container)
    assert read.out == "of the host\n", read
