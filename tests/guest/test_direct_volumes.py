"""Direct-assigned volumes: what a storage driver for Kubernetes does with `kata-runtime direct-volume`."""

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import Container, Engine, add_mount
from guest.test_disk_roots import read_file

_MIB = 1 << 20


@contextlib.contextmanager
def assign(engine: Engine, volume: Path, image: Path, fstype: str = "ext4", **more: object) -> Iterator[None]:
    """Have the volume mounted from an image during the block."""
    volume.mkdir(exist_ok=True)
    info = {"volume-type": "block", "device": str(image), "fstype": fstype, **more}
    engine.succeed("direct-volume", "add", "--volume-path", str(volume), "--mount-info", json.dumps(info))
    try:
        yield
    finally:
        engine.succeed("direct-volume", "remove", "--volume-path", str(volume))


def make_volume(path: Path, fstype: str = "ext4", size: int = 16 * _MIB) -> Path:
    tool = f"mkfs.{fstype}"
    if shutil.which(tool) is None:
        pytest.skip(f"MISSING {tool}: run tools/install-host-packages test")
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run([tool, "-q", str(path)], check=True, timeout=60)
    return path


def read_total(engine: Engine, volume: Path) -> int:
    """Return the bytes of the volume that its sandbox tells."""
    stats = json.loads(engine.succeed("direct-volume", "stats", "--volume-path", str(volume)))
    assert stats["volume_condition"]["abnormal"] is False
    total: int = next(row["total"] for row in stats["usage"] if row["unit"] == 1)
    return total


def test_a_volume_is_mounted_in_the_guest_measured_and_grown_while_its_container_runs(
    engine: Engine, pod: Container, tmp_path: Path
) -> None:
    volume, image = tmp_path / "volume", make_volume(tmp_path / "image")
    change = add_mount("/data", "bind", str(volume), "rbind", "rw")
    group = {"fsGroup": "1000", "fsGroupChangePolicy": "Always"}
    with (
        assign(engine, volume, image, options=["noatime"], metadata=group),
        engine.hold("sleep", "1000", pod=pod.id, change=change) as held,
    ):
        mounted = held.ask("sh", "-c", "grep ' /data ' /proc/mounts | cut -d ' ' -f 1,3,4")
        assert re.match(r"/dev/vd[a-z] ext4 rw,", mounted), mounted
        assert held.ask("stat", "-c", "%g %A", "/data") == "1000 drwxrwsr-x\n"
        held.ask("sh", "-c", "echo of the guest > /data/file")
        before = read_total(engine, volume)
        assert 8 * _MIB < before <= 16 * _MIB

        resize = ("direct-volume", "resize", "--volume-path", str(volume), "--size")
        refused = engine.run(*resize, str(64 * _MIB))
        assert refused.code
        assert f"{image} has {16 * _MIB} bytes, fewer than {64 * _MIB}" in refused.err
        with image.open("r+b") as file:
            file.truncate(64 * _MIB)
        engine.succeed(*resize, str(64 * _MIB))
        assert read_total(engine, volume) > 40 * _MIB
        assert held.ask("cat", "/data/file") == "of the guest\n"
    assert read_file(image, "/file") == "of the guest\n"
    subprocess.run(["e2fsck", "-fn", str(image)], check=True, capture_output=True, timeout=60)


def test_the_containers_of_a_pod_see_one_file_system_of_a_volume(
    engine: Engine, pod: Container, tmp_path: Path
) -> None:
    volume, image = tmp_path / "volume", make_volume(tmp_path / "image")
    change = add_mount("/data", "bind", str(volume), "rbind", "rw")
    with (
        assign(engine, volume, image),
        engine.hold("sleep", "1000", pod=pod.id, change=change) as first,
    ):
        script = "echo of the second > /data/file; grep ' /data ' /proc/mounts | cut -d ' ' -f 1"
        second = engine.run_container("sh", "-c", script, pod=pod.id, change=change)
        assert second.text == first.ask("sh", "-c", script.partition("; ")[2]), second
        assert first.ask("cat", "/data/file") == "of the second\n"
        readonly = add_mount("/data", "bind", str(volume), "rbind", "ro")
        third = engine.run_container("sh", "-c", "! touch /data/other", pod=pod.id, change=readonly)
        assert third.code == 0, third


def test_a_volume_with_xfs_grows_too(engine: Engine, tmp_path: Path) -> None:
    volume, image = tmp_path / "volume", make_volume(tmp_path / "image", "xfs", 320 * _MIB)
    change = add_mount("/data", "bind", str(volume), "rbind", "rw")
    engine.configure('block_device_driver = "virtio-blk"\n\n')
    try:
        with assign(engine, volume, image, "xfs"), engine.hold("sleep", "1000", change=change):
            before = read_total(engine, volume)
            with image.open("r+b") as file:
                file.truncate(400 * _MIB)
            engine.succeed("direct-volume", "resize", "--volume-path", str(volume), "--size", str(400 * _MIB))
            assert read_total(engine, volume) > before + 60 * _MIB
    finally:
        engine.configure("")


def test_a_volume_that_nobody_has_or_that_is_malformed_is_refused(
    engine: Engine, pod: Container, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    unknown = engine.run("direct-volume", "stats", "--volume-path", str(volume))
    assert unknown.code
    assert f"{volume} is no direct-assigned volume" in unknown.err
    with assign(engine, volume, tmp_path / "image"):
        unused = engine.run("direct-volume", "stats", "--volume-path", str(volume))
        assert unused.code
        assert f"no container has the volume {volume} mounted" in unused.err
        missing = engine.run_container("true", pod=pod.id, change=add_mount("/data", "bind", str(volume), "rbind"))
        assert missing.code
        assert f"{tmp_path}/image does not exist" in missing.err
    other = engine.run(
        "direct-volume", "add", "--volume-path", str(volume), "--mount-info", '{"volume-type": "spdkvol"}'
    )
    assert other.code
    assert "is of type 'spdkvol'" in other.err
