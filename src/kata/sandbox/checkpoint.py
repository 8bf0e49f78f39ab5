"""A running sandbox on disk: what is in the directory of a checkpoint, and whether it can be gone on from.

<directory>/memory, state    what the driver saved of the VM
<directory>/disk-N           what a disk of the container held
<directory>/inventory.img    for Podman, which looks for a file of this name
<directory>/checkpoint.json  what tells of it; it is put there last, so a directory that has it is whole
"""

import json
import os
import stat
from contextlib import suppress
from typing import Any, NamedTuple

from kata.errors import HostError, NotFoundError, UnsupportedError, UsageError
from kata.resources.size import VmSize
from kata.sandbox.template import describe_file
from kata.sys.file import is_ours_alone, read_text, replace_file
from kata.sys.sparsefile import sum_blocks

VERSION = 1
MAKING = ".making"
_DESCRIPTION = "checkpoint.json"
_MARK = "inventory.img"
"""Of CRIU's files the one by which Podman tells that a checkpoint is complete (libpod's `restore`)."""

DISK = "disk-"
_DRIVERS_OWN = ("memory", "state")


class SavedDisk(NamedTuple):
    """A disk of the container: its `id` and `place` in the VM, and where the guest finds it.

    What it held is in `file`. Without one it is read-only, and still what `described` says of `path`.
    """

    id: str
    place: int
    driver: str
    source: str
    path: str
    local: bool
    readonly: bool
    direct: bool
    no_flush: bool
    aio: str
    file: str = ""
    described: str = ""


class SavedCard(NamedTuple):
    """A network card: its `place` in the VM, its address and queues, and the name of the pod's link it was of."""

    place: int
    mac: str
    queues: int
    link: str


class SavedContainer(NamedTuple):
    """The container: its id, what the guest calls it, its bundle, and whether it was paused."""

    id: str
    name: str
    bundle: str
    rootfs: str
    paused: bool


class Checkpoint(NamedTuple):
    """What is known of a sandbox that was saved. `sandbox` is the one, and `root` where the state of it was.

    `identity` and `files` are what the hypervisor said of its VM: one that goes on from it has the same.
    `stood_still` is how many seconds it stood still for it. `sums` has a checksum of each file.
    """

    sandbox: str
    root: str
    identity: str
    files: tuple[str, ...]
    size: VmSize
    ports: int
    scsi: bool
    container: SavedContainer
    disks: tuple[SavedDisk, ...]
    cards: tuple[SavedCard, ...]
    stood_still: float
    sums: dict[str, str]


def list_files(checkpoint: Checkpoint) -> list[str]:
    """Return the names of the files beside its description."""
    return [*_DRIVERS_OWN, *(disk.file for disk in checkpoint.disks if disk.file)]


def sum_files(directory: str, names: list[str]) -> dict[str, str]:
    """Return the checksum of each file of a directory. Blocks for 2 ms a MiB or so. Raise OSError."""
    sums = {}
    for name in names:
        descriptor = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            sums[name] = sum_blocks(descriptor)
        finally:
            os.close(descriptor)
    return sums


def publish_checkpoint(making: str, directory: str, checkpoint: Checkpoint) -> None:
    """Move what was made in `making` to its place, instead of an older checkpoint there. Raise OSError."""
    with suppress(FileNotFoundError):
        os.unlink(f"{directory}/{_DESCRIPTION}")
    names = list_files(checkpoint)
    for name in os.listdir(directory):
        if name.startswith(DISK) and name not in names:
            os.unlink(f"{directory}/{name}")
    for name in _DRIVERS_OWN:  # some let the VMM's user read them, in a directory that is nobody else's
        os.chmod(f"{making}/{name}", 0o600)
    for name in names:
        os.rename(f"{making}/{name}", f"{directory}/{name}")
    replace_file(f"{directory}/{_MARK}", "This is no image of CRIU's, but a checkpoint of kata-runtime.\n")
    replace_file(f"{directory}/{_DESCRIPTION}", json.dumps({"version": VERSION, **_describe(checkpoint)}))
    os.rmdir(making)


def _describe(checkpoint: Checkpoint) -> dict[str, Any]:
    nested = {
        "size": checkpoint.size._asdict(),
        "container": checkpoint.container._asdict(),
        "disks": [disk._asdict() for disk in checkpoint.disks],
        "cards": [card._asdict() for card in checkpoint.cards],
    }
    return {**checkpoint._asdict(), **nested}


def read_checkpoint(directory: str) -> Checkpoint:
    """Return what a directory's description says. `verify_checkpoint` says whether it is true.

    Raise NotFoundError where there is none, UnsupportedError for another version's, UsageError for one that is
    malformed, HostError for one that others can write to.
    """
    path = f"{directory}/{_DESCRIPTION}"
    text = read_text(path)
    if not text:
        raise NotFoundError(f"there is no checkpoint at {directory}", hint=f"it would have a file {_DESCRIPTION}")
    _check_owner(path)
    try:
        document = json.loads(text)
        version = document.pop("version")
        if version != VERSION:
            raise UnsupportedError(f"the checkpoint at {directory} is of version {version}, and this is {VERSION}")
        return Checkpoint(
            **{
                **document,
                "files": tuple(document["files"]),
                "size": VmSize(**document["size"]),
                "container": SavedContainer(**document["container"]),
                "disks": tuple(SavedDisk(**disk) for disk in document["disks"]),
                "cards": tuple(SavedCard(**card) for card in document["cards"]),
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path} does not describe a checkpoint: {error}") from error


def _check_owner(path: str) -> None:
    status = os.lstat(path)
    if not (is_ours_alone(status) and stat.S_ISREG(status.st_mode)):
        raise HostError(f"{path} is not used: others could have written it", hint="it has to be a file of root's alone")


def verify_files(directory: str, checkpoint: Checkpoint) -> None:
    """Compare each file with its checksum. Blocks as `sum_files` does. Raise HostError for one that is damaged."""
    for name in list_files(checkpoint):
        if "/" in name:
            raise HostError(f"the checkpoint at {directory} names a file of another directory: {name}")
        try:
            _check_owner(f"{directory}/{name}")
            found = sum_files(directory, [name])[name]
        except OSError as error:
            raise HostError(f"the checkpoint at {directory} lacks its file {name}: {error.strerror}") from error
        if found != checkpoint.sums.get(name):
            raise HostError(f"{directory}/{name} is damaged: it is not what was saved", hint="make another checkpoint")


def verify_machine(directory: str, checkpoint: Checkpoint, identity: str, files: tuple[str, ...]) -> None:
    """Compare the VM that is to go on with the one that was saved. Raise UnsupportedError that says what differs."""
    subject = f"the checkpoint at {directory} is of another VM"
    if identity != checkpoint.identity:
        ours, theirs = identity.splitlines(), checkpoint.identity.splitlines()
        pairs = [(own, their) for own, their in zip(ours, theirs, strict=False) if own != their]
        own, their = pairs[0] if pairs else (f"{len(ours)} words", f"{len(theirs)} words")
        raise UnsupportedError(f"{subject}: it had {their!r} where this host and configuration have {own!r}")
    then = {text.partition(" ")[0]: text for text in checkpoint.files}
    for path in files:
        if then.get(path) != describe_file(path):
            raise UnsupportedError(f"{subject}: {path} is not the file that it was", hint="QEMU, kernel and image stay")


def verify_disks(directory: str, checkpoint: Checkpoint) -> None:
    """Check that disks which are not in a checkpoint are what they were. Raise UnsupportedError."""
    for disk in checkpoint.disks:
        if not disk.file and describe_file(disk.path) != disk.described:
            raise UnsupportedError(
                f"the checkpoint at {directory} needs the disk {disk.path}, which is not what it was"
            )
