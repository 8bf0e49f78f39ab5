"""Containers run on the root file systems of each snapshotter, and nothing of them stays mounted."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd.daemon import RUNTIME, Containerd
from containerd.events import watch_events
from containerd.images import IMAGE
from engine import kill_process

_PROGRAM = ("sh", "-c", "cat /etc/hostname 2>/dev/null; echo text > /new && cat /new && ls /bin/busybox")


def _require_snapshotter(daemon: Containerd, name: str) -> None:
    if name == "devmapper" and not Path("/dev/mapper/control").exists():
        pytest.skip("NO SNAPSHOTTER devmapper on this host: its kernel has no device mapper (/dev/mapper/control)")
    rows = [line.split() for line in daemon.succeed("plugins", "ls").splitlines()]
    states = {row[1]: row[-1] for row in rows if row and row[0] == "io.containerd.snapshotter.v1"}
    if states.get(name) != "ok":
        why = daemon.run("plugins", "ls", "-d", f"id=={name}").out
        pytest.skip(f"NO SNAPSHOTTER {name} in this containerd: it is {states.get(name, 'not built in')}\n{why}")


def _wait_for_no_loops(place: Path, *, timeout: float = 10.0) -> None:
    """The kernel takes the file from a device in the background, after the last mount of it in any namespace."""
    deadline = time.monotonic() + timeout
    while left := _list_loops(place):
        assert time.monotonic() < deadline, left


def _list_loops(place: Path) -> list[str]:
    names = (path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file"))
    return [name for name in names if name.startswith(str(place))]


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native", "blockfile", "erofs", "devmapper"])
def test_a_container_reads_and_writes_its_root_file_system(current: Containerd, snapshotter: str) -> None:
    if snapshotter == "erofs" and shutil.which("mkfs.erofs") is None:
        pytest.skip("MISSING mkfs.erofs: run tools/install-host-packages test")
    _require_snapshotter(current, snapshotter)
    before = _list_mounts(current.place)
    name = current.name(snapshotter)
    done = current.run("run", "--rm", "--runtime", RUNTIME, "--snapshotter", snapshotter, IMAGE, name, *_PROGRAM)

    assert (done.code, done.out) == (0, "text\n/bin/busybox\n"), done
    assert not current.find_traces(name)
    _wait_for_no_loops(current.place)
    assert _list_mounts(current.place) == before


def _list_mounts(place: Path) -> list[str]:
    """The mounts of this containerd; others may come and go."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(place) in line]


@pytest.mark.parametrize(("shared", "kind"), [(False, "ext4"), (True, "virtiofs")])
def test_a_root_file_system_of_a_file_is_a_disk_of_the_vm_unless_disks_are_disabled(
    current: Containerd, shared: bool, kind: str
) -> None:
    _require_snapshotter(current, "blockfile")
    with current.configure(f"disable_block_device_use = {str(shared).lower()}\n"):
        name = current.name("disk")
        flags = ("--runtime", RUNTIME, "--snapshotter", "blockfile")
        script = "grep ' / ' /proc/mounts | cut -d ' ' -f 3; echo of the guest > /new"
        done = current.run("run", *flags, IMAGE, name, "sh", "-c", script)
        assert (done.code, done.out) == (0, f"{kind}\n"), done
        source = current.succeed("snapshots", "--snapshotter", "blockfile", "mounts", "/here", name).split()[3]
        read = subprocess.run(
            ["debugfs", "-R", "cat /new", source], capture_output=True, text=True, check=True, timeout=30
        )
        assert read.stdout == "of the guest\n"
        current.succeed("containers", "rm", name)


@pytest.mark.parametrize(("shared", "seen"), [(False, "overlay\n2\n"), (True, "virtiofs\n0\n")])
def test_layers_in_files_and_the_writable_one_are_disks_of_the_vm_unless_disks_are_disabled(
    current: Containerd, shared: bool, seen: str
) -> None:
    _require_snapshotter(current, "erofs")
    with current.configure(f"disable_block_device_use = {str(shared).lower()}\n"):
        script = "grep ' / ' /proc/mounts | cut -d ' ' -f 3; ls /sys/block | grep -c ^sd; echo text > /new && sync"
        done = current.run_container("sh", "-c", script, flags=("--snapshotter", "erofs"))

    assert (done.code, done.out) == (0, seen), done


@pytest.fixture(scope="module")
def with_upper_directories(current: Containerd) -> Iterator[Containerd]:
    """The daemon with its default for EROFS: what is written is in a directory of the host."""
    _require_snapshotter(current, "erofs")
    configuration = current.place / "config.toml"
    before = configuration.read_text()
    for text in (before.replace("default_size", "# default_size"), before):
        current.stop()
        configuration.write_text(text)
        current.start()
        if text != before:
            yield current


@pytest.mark.parametrize(("mode", "seen"), [("virtio-fs", "virtiofs\n0\n"), ("none", "overlay\n1\n")])
def test_layers_below_a_directory_of_the_host_are_disks_of_a_vm_that_shares_no_files(
    with_upper_directories: Containerd, mode: str, seen: str
) -> None:
    daemon = with_upper_directories
    with daemon.configure(f'shared_fs = "{mode}"\n'):
        name = daemon.name("upper")
        script = "grep ' / ' /proc/mounts | cut -d ' ' -f 3; ls /sys/block | grep -c ^sd; cat /placed; echo text > /new"
        done = daemon.run("run", "--runtime", RUNTIME, "--snapshotter", "erofs", IMAGE, name, "sh", "-c", script)
        assert (done.code, done.out) == (0, seen), done
        mounts = daemon.succeed("snapshots", "--snapshotter", "erofs", "mounts", "/here", name)
        [upper] = re.findall(r"upperdir=([^,\s]+)", mounts)
        assert (Path(upper) / "new").exists() == (mode == "virtio-fs")
        (Path(upper) / "placed").write_text("by the host\n")
        again = daemon.run("tasks", "start", name)
        assert (again.code, again.out) == (0, f"{seen}by the host\n"), again
        daemon.succeed("containers", "rm", name)


def test_a_shared_root_file_system_of_a_file_is_let_go_of_when_the_shim_is_killed(current: Containerd) -> None:
    _require_snapshotter(current, "blockfile")
    flags = ("--snapshotter", "blockfile")
    with (
        current.configure("disable_block_device_use = true\n"),
        watch_events(current) as events,
        current.hold("sleep", "1000", flags=flags) as name,
    ):
        assert _list_loops(current.place)
        kill_process(current.find_shim(name))
        events.wait_for("/tasks/delete", name)

        _wait_for_no_loops(current.place)


def test_a_container_runs_in_a_vm_that_shares_no_files(current: Containerd) -> None:
    with current.configure('shared_fs = "none"\n'):
        script = "grep -c virtiofs /proc/mounts; grep ' / ' /proc/mounts | cut -d ' ' -f 3; ls /bin/busybox"
        done = current.run_container("sh", "-c", script)

    assert (done.code, done.out) == (0, "0\noverlay\n/bin/busybox\n"), done
