"""The mounts of a container's root, made for real in a mount namespace of the test's own."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from isolation import needs_root, run_with_own_mounts
from kata.errors import HostError, UnsupportedError
from kata.protocol.messages.task import Mount
from kata.shim.rootfs import mount_rootfs, unmount_rootfs
from kata.sys.mount import bind, list_mounts
from kata.sys.namespace import enter_private_mount_namespace

pytestmark = needs_root


def _open_namespace() -> int:
    return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def _list_loops(image: Path) -> list[str]:
    files = (path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file"))
    return [file for file in files if file == str(image)]


def _make_image(path: Path, size: int = 4 << 20) -> Path:
    """Make an ext4 file system with one file."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("MISSING mkfs.ext4: run apt-get install e2fsprogs")
    if not Path("/dev/loop-control").exists():
        pytest.skip("NO LOOP DEVICES: /dev/loop-control is missing")
    content = path.parent / "content"
    content.mkdir()
    (content / "file").write_text("inside")
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-d", str(content), str(path)], check=True, timeout=30)
    return path


def test_an_overlay_of_more_layers_than_fit_in_a_page_is_mounted(tmp_path: Path) -> None:
    layers = [tmp_path / ("long" * 20) / str(number) / "fs" for number in range(60)]
    for number, layer in enumerate(layers):
        layer.mkdir(parents=True)
        (layer / f"file{number}").touch()
    target = tmp_path / "rootfs"
    options = [f"lowerdir={':'.join(map(str, layers))}"]
    assert len(options[0]) > 4096

    def body() -> None:
        mount_rootfs([Mount(type="overlay", source="overlay", options=options)], str(target), _open_namespace())
        assert sorted(os.listdir(target)) == sorted(f"file{number}" for number in range(60))
        unmount_rootfs(str(target))
        assert os.listdir(target) == []

    place = Path.cwd()
    run_with_own_mounts(body)
    assert Path.cwd() == place


def test_options_that_the_kernel_would_cut_are_an_error(tmp_path: Path) -> None:
    mount = Mount(type="tmpfs", source="tmpfs", options=["size=1m" + "0" * 5000])

    with pytest.raises(HostError, match="Argument list too long"):
        mount_rootfs([mount], str(tmp_path / "rootfs"), _open_namespace())


@pytest.mark.parametrize("options", [["loop"], ["ro", "loop"]])
def test_a_file_system_in_a_file_is_mounted_by_a_loop_device_that_goes_with_it(
    tmp_path: Path, options: list[str]
) -> None:
    image = _make_image(tmp_path / "disk")
    target = tmp_path / "rootfs"

    def body() -> None:
        mount_rootfs([Mount(type="ext4", source=str(image), options=options)], str(target), _open_namespace())
        assert (target / "file").read_text() == "inside"
        assert _list_loops(image) == [str(image)]
        assert os.access(target, os.W_OK) == ("ro" not in options)
        unmount_rootfs(str(target))

    run_with_own_mounts(body)
    assert not _list_loops(image)


def test_what_containerd_mounted_after_the_shim_had_left_for_a_namespace_of_its_own_is_found(tmp_path: Path) -> None:
    layer, other, target = tmp_path / "layer", tmp_path / "other", tmp_path / "rootfs"
    layer.mkdir()
    other.mkdir()
    (other / "file").touch()

    def body() -> None:
        outside = _open_namespace()
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            assert not status
            return
        # The child is the shim. What follows happens where containerd is, and does not propagate.
        enter_private_mount_namespace()
        inside = _open_namespace()
        _enter(outside)
        bind(str(other), str(layer))
        _enter(inside)
        assert os.listdir(layer) == []
        mount_rootfs([Mount(type="bind", source=str(layer), options=["rbind", "ro"])], str(target), outside)
        assert os.listdir(target) == ["file"]
        assert not os.access(target, os.W_OK)
        _enter(outside)
        assert os.listdir(target) == []
        os._exit(0)

    run_with_own_mounts(body)


def _enter(namespace: int) -> None:
    from kata.sys import linux  # noqa: PLC0415 - setns moves the root too, so nothing may be imported late

    linux.setns(namespace, linux.CLONE_NEWNS)


def test_a_mount_that_fails_is_named_and_nothing_is_left_of_those_before_it(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "rootfs"
    source.mkdir()
    mounts = [
        Mount(type="bind", source=str(source), options=["bind"]),
        Mount(type="ext4", source=str(tmp_path / "nothing"), options=["loop"]),
    ]

    def body() -> None:
        with pytest.raises(HostError, match=re.escape(f"{tmp_path}/nothing (ext4) cannot be mounted at {target}: No ")):
            mount_rootfs(mounts, str(target), _open_namespace())
        assert not list_mounts(str(target))

    run_with_own_mounts(body)


def test_a_root_with_other_owners_is_refused_with_what_to_do(tmp_path: Path) -> None:
    mount = Mount(type="overlay", source="overlay", options=["uidmap=0:1000:1", "lowerdir=/a"])

    with pytest.raises(UnsupportedError, match="without a user namespace"):
        mount_rootfs([mount], str(tmp_path / "rootfs"), -1)
