"""The directory of a VMM, with real mounts and loop devices in a namespace of the test's own."""

import os
import stat
from pathlib import Path

import pytest

from isolation import needs_root, run_with_own_mounts
from kata.errors import ConfigError, HostError
from kata.hypervisor.cell import Cell
from kata.storage.claim import claim_disk
from loop import attach_loop

pytestmark = needs_root
USER = 0x70000001


def test_it_shows_files_disks_and_sockets_to_its_user_alone_and_takes_them_away(tmp_path: Path) -> None:
    kernel, disk = tmp_path / "vmlinux", tmp_path / "disk"
    kernel.write_bytes(b"kernel")
    disk.write_bytes(bytes(4096))
    disk.chmod(0o600)

    def body() -> None:
        cell = Cell(str(tmp_path / "cell"), USER)
        cell.open()
        assert cell.show_file("kernel", str(kernel), sandbox="box") == "kernel"
        cell.show_disk("disk-a", str(disk), readonly=True)
        cell.make_file("empty", 512)
        cell.make_fifo("log.fifo").close()
        cell.listen("api.sock").close()
        inside = Path(cell.path)
        status = os.stat(inside / "disk-a")
        assert stat.S_ISBLK(status.st_mode)
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (USER, 0o400)
        assert os.stat(disk).st_uid == 0
        assert (os.stat(inside).st_uid, stat.S_IMODE(os.stat(inside).st_mode)) == (USER, 0o700)
        with pytest.raises(OSError, match="Read-only"):
            (inside / "kernel").write_bytes(b"other")
        disk.write_bytes(bytes(8192))
        cell.grow_disk("disk-a")
        number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        assert Path(f"/sys/dev/block/{number}/size").read_text() == "16\n"
        cell.hide_disk("disk-a")
        assert not (inside / "disk-a").exists()
        cell.release()
        cell.release()
        assert not (tmp_path / "cell").exists()
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()

    run_with_own_mounts(body)


def test_a_disk_that_is_claimed_for_its_vm_is_shown_to_the_vmm(tmp_path: Path) -> None:
    """The claim is this process's; the VMM opens the disk by its name in the cell."""
    (tmp_path / "image").write_bytes(bytes(4096))
    with attach_loop(tmp_path / "disk") as device:
        claims = []
        for path in (device, str(tmp_path / "image")):
            descriptor = os.open(path, os.O_RDWR)
            claims.append(claim_disk(descriptor, readonly=False))
            os.close(descriptor)

        def body() -> None:
            cell = Cell(str(tmp_path / "cell"), USER)
            cell.open()
            for name, path in (("device", device), ("image", str(tmp_path / "image"))):
                cell.show_disk(name, path, readonly=False)
                os.close(os.open(f"{cell.path}/{name}", os.O_RDWR))
            cell.release()

        run_with_own_mounts(body)
        for claim in claims:
            os.close(claim)


def test_what_its_user_put_in_place_of_a_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host")

    def body() -> None:
        cell = Cell(str(tmp_path / "cell"), USER)
        cell.open()
        cell.make_directory("saved")
        (Path(cell.path) / "saved/state").write_text("of the VM")
        os.symlink(tmp_path / "secret", f"{cell.path}/link")
        os.mkfifo(f"{cell.path}/fifo")
        with cell.read_file("saved/state") as file:
            assert os.read(file, 100) == b"of the VM"
        for name in ("link", "fifo", "nothing"):
            with pytest.raises(HostError, match=name), cell.read_file(name):
                pass
        cell.release()

    run_with_own_mounts(body)


def test_its_place_below_the_mount_is_its_users(tmp_path: Path) -> None:
    def body() -> None:
        cell = Cell(str(tmp_path / "jail"), USER, below="firecracker/abc/root")
        cell.open()
        assert cell.path == f"{tmp_path}/jail/firecracker/abc/root"
        assert os.stat(cell.path).st_uid == USER
        cell.release()

    run_with_own_mounts(body)


def test_a_file_that_its_user_may_not_read_is_named(tmp_path: Path) -> None:
    secret = tmp_path / "vmlinux"
    secret.write_bytes(b"kernel")
    secret.chmod(0o600)

    def body() -> None:
        cell = Cell(str(tmp_path / "cell"), USER)
        cell.open()
        with pytest.raises(ConfigError, match=f"sandbox box needs {secret}, which the VMM's user may not read"):
            cell.show_file("kernel", str(secret), sandbox="box")
        with pytest.raises(ConfigError, match="/nowhere, which cannot be opened"):
            cell.show_file("kernel", "/nowhere", sandbox="box")
        with pytest.raises(ConfigError, match="disk /nowhere cannot be opened"):
            cell.show_disk("disk-a", "/nowhere", readonly=True)
        with pytest.raises(ConfigError, match="neither a file nor a block device"):
            cell.show_disk("disk-a", "/dev/null", readonly=True)
        cell.release()

    run_with_own_mounts(body)
