"""Containers whose root file system is in a file or on a block device of the host: the guest mounts it itself."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engine import HYPERVISOR, Change, Container, Engine, fill_root


def make_image(directory: Path, fstype: str) -> Path:
    """Make a file system with a busybox in it."""
    tool = f"mkfs.{fstype}"
    if shutil.which(tool) is None:
        pytest.skip(f"MISSING {tool}: run tools/install-host-packages test")
    root, image = directory / "content", directory / f"root.{fstype}"
    fill_root(root)
    if fstype == "erofs":
        subprocess.run([tool, "--quiet", str(image), str(root)], check=True, timeout=60)
        return image
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run([tool, "-q", "-d", str(root), str(image)], check=True, timeout=60)
    return image


def set_root(image: Path, *, readonly: bool = False) -> Change:
    def change(spec: dict[str, Any]) -> None:
        spec["root"] = {"path": str(image), "readonly": readonly}

    return change


def read_file(image: Path, name: str) -> str:
    """Read a file of an ext4 image without mounting it."""
    done = subprocess.run(
        ["debugfs", "-R", f"cat {name}", str(image)], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


_SCRIPT = "grep ' / ' /proc/mounts | cut -d ' ' -f 1,3; echo of the guest > /new && cat /new"


_CACHES = "".join(f"block_device_cache_{name} = true\n" for name in ("set", "direct", "noflush"))
_BLK = "/dev/vd[a-z]" if HYPERVISOR == "firecracker" else "/dev/vdb"
_WAYS = {"virtio-blk": (_BLK, f'block_device_aio = "io_uring"\n{_CACHES}')}
if HYPERVISOR == "qemu":  # the others have no such controller
    _WAYS["virtio-scsi"] = ("/dev/sda", 'block_device_aio = "native"\n')

LIST_DISKS = "grep -Lx 1 /sys/block/[sv]d*/size"
"""A command of the shell: which disks the guest has. Firecracker's with nothing in them are of one sector."""


@pytest.mark.parametrize("driver", list(_WAYS))
def test_what_a_container_writes_to_a_root_in_a_file_is_in_the_file_afterwards(
    engine: Engine, tmp_path: Path, driver: str
) -> None:
    device, how = _WAYS[driver]
    image = make_image(tmp_path, "ext4")
    engine.configure(f'block_device_driver = "{driver}"\n{how}')
    try:
        result = engine.run_container("sh", "-c", _SCRIPT, change=set_root(image))
    finally:
        engine.configure("")
    assert result.code == 0, result
    assert re.fullmatch(f"{device} ext4\nof the guest\n", result.text), result
    assert read_file(image, "/new") == "of the guest\n"
    subprocess.run(["e2fsck", "-fn", str(image)], check=True, capture_output=True, timeout=60)


def test_a_root_that_nobody_can_write_gets_a_writable_layer_in_the_guest(engine: Engine, tmp_path: Path) -> None:
    image = make_image(tmp_path, "erofs")
    before = image.read_bytes()
    flags = ("run", "--rootfs", str(image), "--")
    result = engine.run(*flags, "sh", "-c", _SCRIPT)
    assert (result.code, result.text) == (0, "overlay overlay\nof the guest\n"), result
    assert image.read_bytes() == before


def test_a_read_only_root_in_a_file_is_read_only_for_the_vm(engine: Engine, pod: Container, tmp_path: Path) -> None:
    image = make_image(tmp_path, "ext4")
    before = image.read_bytes()
    script = "! touch /new && ls /bin/busybox"
    result = engine.run_container("sh", "-c", script, pod=pod.id, change=set_root(image, readonly=True))
    assert (result.code, result.text) == (0, "/bin/busybox\n"), result
    assert image.read_bytes() == before


def test_two_containers_of_a_pod_have_one_disk_for_the_image_that_both_are_of(
    engine: Engine, pod: Container, tmp_path: Path
) -> None:
    image = make_image(tmp_path, "erofs")
    with engine.hold("sleep", "1000", pod=pod.id, change=set_root(image)) as first:
        disks = first.ask("sh", "-c", LIST_DISKS)
        script = f"{LIST_DISKS}; echo second > /new; cat /new"
        second = engine.run_container("sh", "-c", script, pod=pod.id, change=set_root(image))
        assert second.text == f"{disks}second\n", second
        assert first.ask("ls", "/bin/busybox")
        assert first.execute("ls", "/new").code


def test_a_file_without_a_known_file_system_is_refused_by_name(engine: Engine, pod: Container, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"no file system".ljust(8192, b"\0"))
    result = engine.run_container("true", pod=pod.id, change=set_root(tmp_path / "text"))
    assert result.code
    assert f"the root {tmp_path}/text holds no file system that the guest can mount" in result.err
    assert "ext4, xfs and erofs" in result.err


def test_a_root_that_one_vm_writes_is_refused_to_another_and_one_that_is_read_serves_several(
    engine: Engine, pod: Container, tmp_path: Path
) -> None:
    image = make_image(tmp_path, "ext4")
    with engine.hold("sleep", "1000", pod=pod.id, change=set_root(image)) as first:
        refused = engine.run_container("true", change=set_root(image))
        assert refused.code
        assert f"{image} cannot be a disk of the VM: another VM, or a program of the host, has it" in refused.err
        assert "a disk that is written is for one VM" in refused.err
        assert first.ask("ls", "/bin/busybox")
    with engine.hold("sleep", "1000", pod=pod.id, change=set_root(image, readonly=True)):
        second = engine.run_container("ls", "/bin/busybox", change=set_root(image, readonly=True))
        assert second.text == "/bin/busybox\n", second
