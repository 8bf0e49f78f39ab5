"""Going on from a sandbox that was saved: its VM with disks and network cards in their places, and its container."""

import asyncio
import os
import uuid
from contextlib import ExitStack, suppress
from typing import NamedTuple

from kata.errors import HostError, KataError, UnsupportedError
from kata.hypervisor.spec import BlockDevice, DiskAddress, NetDevice, Plugged
from kata.network.namespace import make_namespace, visit_namespace
from kata.network.tap import name_tap, open_tap
from kata.protocol.messages.checkpoint import Identity
from kata.sandbox.bundle import Bundle
from kata.sandbox.checkpoint import (
    Checkpoint,
    SavedCard,
    SavedDisk,
    read_checkpoint,
    verify_disks,
    verify_files,
    verify_machine,
)
from kata.sandbox.containerdisks import HeldDisk
from kata.sandbox.copyfolder import find_folder
from kata.sandbox.description import identify_saved
from kata.sandbox.diskroot import OfferedRoot
from kata.sandbox.hostdisk import find_disks, find_node
from kata.sandbox.hostfiles import HostFiles
from kata.sandbox.ledger import Kind, record_resource
from kata.sandbox.network import SandboxNetwork
from kata.sandbox.plan import Plan
from kata.sandbox.site import Site, probe_host
from kata.sandbox.start import restore_vm
from kata.sandbox.vm import SandboxVm
from kata.sandbox.volume import take_direct_volumes
from kata.storage.claim import claim_disk
from kata.storage.pack import CACHE
from kata.sys.sparsefile import copy_blocks, restore_blocks

_GONE = "gone-"
_SUFFIX = ".erofs"


class Origin(NamedTuple):
    """What a sandbox goes on from: the directory of a checkpoint. A `copy` leaves the one that was saved its disks.

    `offered` is where the engine has the root for it, if that is on disks.
    """

    directory: str
    copy: bool = False
    offered: OfferedRoot | None = None


class Restored(NamedTuple):
    """A VM that goes on, with its container held; the disks that are the container's, and what was saved."""

    vm: SandboxVm
    checkpoint: Checkpoint
    disks: tuple[HeldDisk, ...]


async def restore_sandbox(
    site: Site, origin: Origin, bundle: Bundle, files: HostFiles, network: SandboxNetwork, cards: list[NetDevice]
) -> Restored:
    """Start the VM of a checkpoint for the container of a bundle, on these network cards, and wait for its agent.

    Raise what reading and verifying it raises, StateError for disks that are in use, StartError.
    """
    directory = origin.directory
    if origin.copy:  # the bundle is in it too, and goes with the sandbox
        record_resource(site.directory, Kind.TREE, find_folder(site.id))
    checkpoint = read_checkpoint(directory)
    with site.timeline.measure("probe host"):
        host = probe_host(site)
        plan = Plan(shares=False, ports=checkpoint.ports, scsi=checkpoint.scsi)
        verify_machine(directory, checkpoint, *identify_saved(site, checkpoint.size, host, plan))
    with site.timeline.measure("verify checkpoint"):
        verify_disks(directory, checkpoint)
        if not origin.copy:  # a copy is made at once of what was saved just before
            await asyncio.to_thread(verify_files, directory, checkpoint)
    with ExitStack() as opened:
        with site.timeline.measure("disks"):
            held = await _restore_disks(site, origin, bundle, files, checkpoint)
            disks = [
                Plugged(disk.place, one.device._replace(path=f"/proc/self/fd/{one.claim}"))
                for one, disk in zip(held, checkpoint.disks, strict=True)
            ]
        links = {link: card for card, (_, link, *_) in zip(cards, network.list_cards(), strict=True)}
        gone = {card.link: _describe_gone(card, opened) for card in checkpoint.cards if card.link not in links}
        placed = [
            Plugged(card.place, gone[card.link] if card.link in gone else links.pop(card.link))
            for card in checkpoint.cards
        ]
        vm = await restore_vm(site, checkpoint.size, host, plan, directory, [*disks, *placed])
    try:
        for card in gone.values():
            await vm.machine.unplug(card.id)
        for card in links.values():
            await vm.machine.plug_net(card)
    except BaseException:
        await vm.stop()
        raise
    return Restored(vm, checkpoint, tuple(held))


def _describe_gone(card: SavedCard, opened: ExitStack) -> NetDevice:
    """Describe a card that the saved VM had and this one is not to have: it is there for as long as state is loaded.

    Its tap is in a namespace that goes with it.
    """
    namespace = make_namespace()
    try:
        with visit_namespace(namespace):
            taps = open_tap(name_tap(0), card.queues)
    finally:
        os.close(namespace)
    for tap in taps:
        opened.callback(os.close, tap)
    return NetDevice(f"{_GONE}{card.place}", card.mac, taps)


def _name_disks(site: Site, origin: Origin, bundle: Bundle, files: HostFiles) -> list[str]:
    """Return what the disks are of that a bundle gives to its container, in the order in which they are plugged in."""
    root = [bundle.rootfs]
    if origin.offered is not None:
        disks = origin.offered.disks
        root = [layer.path for layer in (*disks.layers, *([disks.upper] if disks.upper is not None else []))]
    _, volumes = take_direct_volumes(files.translate(bundle, site.id, os.getpid()))
    nodes = [find_node(site.id, disk) for disk in find_disks(bundle.spec)]
    return list(dict.fromkeys([*nodes, *root, *(volume.info.device for volume in volumes)]))


async def _restore_disks(
    site: Site, origin: Origin, bundle: Bundle, files: HostFiles, checkpoint: Checkpoint
) -> list[HeldDisk]:
    """Have each disk hold what it held. Raise UnsupportedError for a bundle with others, StateError, HostError."""
    names = _name_disks(site, origin, bundle, files)
    if len(names) != len(checkpoint.disks):
        raise UnsupportedError(
            f"the checkpoint at {origin.directory} has {len(checkpoint.disks)} disks, and the bundle {bundle.path} "
            f"gives its container {len(names)}"
        )
    return [
        await asyncio.to_thread(_restore_disk, site, origin, disk, name, files)
        for disk, name in zip(checkpoint.disks, names, strict=True)
    ]


def _restore_disk(site: Site, origin: Origin, disk: SavedDisk, name: str, files: HostFiles) -> HeldDisk:
    """Claim a disk, and have it hold what it held."""
    path, local = disk.path, disk.local
    saved = os.open(f"{origin.directory}/{disk.file}", os.O_RDONLY | os.O_CLOEXEC) if disk.file else -1
    try:
        is_own = saved >= 0 and not disk.readonly and not origin.copy
        if saved >= 0 and disk.readonly:
            path, local = _keep_image(saved), True
        elif is_own:
            path = name
        elif saved >= 0:
            path, local = _copy_disk(site, disk, saved), True
        claim = _claim(path, files, local=local, readonly=disk.readonly)
        if is_own:
            _put_back(origin, saved, claim, path)
    except OSError as error:
        raise HostError(f"the disk {path} cannot be restored: {error.strerror}") from error
    finally:
        if saved >= 0:
            os.close(saved)
    device = BlockDevice(disk.id, path, disk.readonly, disk.direct, disk.no_flush, disk.aio)
    address = DiskAddress("scsi" if disk.driver == "scsi" else "blk", disk.source)
    return HeldDisk(path, local, device, address, claim)


def _claim(path: str, files: HostFiles, *, local: bool, readonly: bool) -> int:
    descriptor = files.open(os.getpid(), path, os.O_RDONLY if readonly else os.O_RDWR, local=local)
    try:
        return claim_disk(descriptor, readonly=readonly)
    except KataError as error:
        error.message = f"the disk {path} cannot be restored: {error.message}"
        raise
    finally:
        os.close(descriptor)


def _put_back(origin: Origin, saved: int, target: int, path: str) -> None:
    there, wanted = os.lseek(target, 0, os.SEEK_END), os.fstat(saved).st_size
    if there != wanted:
        raise UnsupportedError(
            f"the disk {path} has {there} bytes, and the checkpoint at {origin.directory} is of one with {wanted}"
        )
    restore_blocks(saved, target)


def _keep_image(saved: int) -> str:
    """Put a packed root among those that are kept, and return its path: the checkpoint may go before the container."""
    status = os.fstat(saved)
    path = f"{CACHE}/saved-{status.st_dev:x}-{status.st_ino:x}-{status.st_mtime_ns:x}{_SUFFIX}"
    os.makedirs(CACHE, 0o700, exist_ok=True)
    with suppress(FileExistsError):
        try:
            os.link(f"/proc/self/fd/{saved}", path, follow_symlinks=True)
        except FileExistsError:
            raise
        except OSError:  # of another file system
            _copy_to(saved, path)
    return path


def _copy_to(saved: int, path: str) -> None:
    """Make a copy that has its name when it is whole."""
    target = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        copy_blocks(saved, target)
        os.link(f"/proc/self/fd/{target}", path, src_dir_fd=target, follow_symlinks=True)
    finally:
        os.close(target)


def _copy_disk(site: Site, disk: SavedDisk, saved: int) -> str:
    path = f"{find_folder(site.id)}/{disk.file}"
    _copy_to(saved, path)
    return path


def make_identity(hostname: str) -> Identity:
    """Return an identity that no other guest has."""
    return Identity(hostname=hostname, boot_id=str(uuid.uuid4()), machine_id=os.urandom(16).hex())
