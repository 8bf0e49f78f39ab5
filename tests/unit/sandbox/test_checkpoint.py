"""The description of a checkpoint: what was written is read, and what is not to be trusted is refused."""

import os
from pathlib import Path

import pytest

from kata.errors import HostError, KataError, NotFoundError, UnsupportedError, UsageError
from kata.resources.size import VmSize
from kata.sandbox.checkpoint import (
    Checkpoint,
    SavedCard,
    SavedContainer,
    SavedDisk,
    publish_checkpoint,
    read_checkpoint,
    sum_files,
    verify_disks,
    verify_files,
    verify_machine,
)
from kata.sandbox.template import describe_file


def make_checkpoint(folder: Path, disks: tuple[SavedDisk, ...] = ()) -> Checkpoint:
    """Write a checkpoint without a VM in it."""
    making, kernel = folder / ".making", folder.parent / "kernel"
    making.mkdir(parents=True)
    kernel.write_text("a kernel")
    for name in ("memory", "state", *(disk.file for disk in disks if disk.file)):
        (making / name).write_text(name)
        (making / name).chmod(0o600)
    checkpoint = Checkpoint(
        sandbox="s",
        root="/run/kata",
        identity="QEMU\n-m\n512M",
        files=(describe_file(str(kernel)),),
        size=VmSize(1, 512),
        ports=2,
        scsi=True,
        container=SavedContainer("c", "c", "/bundle", "/bundle/rootfs", paused=False),
        disks=disks,
        cards=(SavedCard(1, "02:00:00:00:00:01", 1, "eth0"),),
        stood_still=0.25,
        sums=sum_files(str(making), [path.name for path in making.iterdir()]),
    )
    publish_checkpoint(str(making), str(folder), checkpoint)
    return checkpoint


def make_disk(path: Path, file: str = "") -> SavedDisk:
    return SavedDisk(
        id="disk1",
        place=0,
        driver="scsi",
        source="0:0",
        path=str(path),
        local=False,
        readonly=True,
        direct=False,
        no_flush=False,
        aio="threads",
        file=file,
        described=describe_file(str(path)),
    )


def test_what_was_published_is_read_and_true(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    made = make_checkpoint(folder, (make_disk(tmp_path / "disk", "disk-0"),))
    found = read_checkpoint(str(folder))
    assert found == made
    verify_files(str(folder), found)
    verify_disks(str(folder), found)
    verify_machine(str(folder), found, made.identity, (str(tmp_path / "kernel"),))
    make_checkpoint(folder)  # in its place
    assert sorted(os.listdir(folder)) == ["checkpoint.json", "inventory.img", "memory", "state"]


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        ("", NotFoundError, "there is no checkpoint at"),
        ("{", UsageError, "does not describe a checkpoint"),
        ("[]", UsageError, "does not describe a checkpoint"),
        ('{"version": 1}', UsageError, "does not describe a checkpoint"),
        ('{"version": 2}', UnsupportedError, "is of version 2, and this is 1"),
    ],
)
def test_a_description_of_something_else_is_refused(tmp_path: Path, text: str, kind: type[KataError], why: str) -> None:
    (tmp_path / "checkpoint.json").write_text(text)
    (tmp_path / "checkpoint.json").chmod(0o600)
    with pytest.raises(kind, match=why):
        read_checkpoint(str(tmp_path))


def test_files_that_are_damaged_missing_or_others_to_write_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    made = make_checkpoint(folder)
    (folder / "state").write_text("other")
    with pytest.raises(HostError, match="state is damaged"):
        verify_files(str(folder), made)
    (folder / "state").unlink()
    with pytest.raises(HostError, match="lacks its file state"):
        verify_files(str(folder), made)
    (folder / "state").symlink_to(folder / "memory")
    with pytest.raises(HostError, match="others could have written it"):
        verify_files(str(folder), made)
    (folder / "checkpoint.json").chmod(0o622)
    with pytest.raises(HostError, match="others could have written it"):
        read_checkpoint(str(folder))


def test_a_file_outside_its_directory_is_refused(tmp_path: Path) -> None:
    made = make_checkpoint(tmp_path / "saved")
    with pytest.raises(HostError, match="names a file of another directory"):
        verify_files(str(tmp_path / "saved"), made._replace(disks=(make_disk(tmp_path / "disk", "../disk"),)))


def test_another_machine_file_or_disk_is_named(tmp_path: Path) -> None:
    folder, kernel, disk = tmp_path / "saved", tmp_path / "kernel", tmp_path / "disk"
    disk.write_text("a disk")
    made = make_checkpoint(folder, (make_disk(disk),))
    with pytest.raises(UnsupportedError, match="it had '512M' where this host and configuration have '1G'"):
        verify_machine(str(folder), made, "QEMU\n-m\n1G", (str(kernel),))
    kernel.write_text("another kernel")
    with pytest.raises(UnsupportedError, match="kernel is not the file that it was"):
        verify_machine(str(folder), made, made.identity, (str(kernel),))
    disk.write_text("another disk")
    with pytest.raises(UnsupportedError, match="which is not what it was"):
        verify_disks(str(folder), made)
