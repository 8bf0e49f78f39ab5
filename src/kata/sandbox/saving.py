"""Saving a sandbox while it runs, to go on from there later: see kata.sandbox.checkpoint."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from typing import NamedTuple

from kata.errors import HostError, KataError, StateError, UnsupportedError
from kata.sandbox.checkpoint import (
    DISK,
    MAKING,
    Checkpoint,
    SavedCard,
    SavedContainer,
    SavedDisk,
    list_files,
    publish_checkpoint,
    sum_files,
)
from kata.sandbox.container import Container
from kata.sandbox.description import identify_saved
from kata.sandbox.ledger import Kind, record_resource
from kata.sandbox.network import SandboxNetwork
from kata.sandbox.obstacle import find_checkpoint_obstacle
from kata.sandbox.plan import Plan
from kata.sandbox.site import Host, Site, probe_host
from kata.sandbox.states import Status
from kata.sandbox.template import describe_file
from kata.sandbox.vm import SandboxVm
from kata.storage.pack import CACHE
from kata.sys.sparsefile import copy_blocks
from kata.sys.tree import remove_tree

_SAVE_TIMEOUT = 120.0
_KILLED = 128 + signal.SIGKILL


class Subject(NamedTuple):
    """What is saved: a sandbox with one container."""

    site: Site
    vm: SandboxVm
    container: Container
    network: SandboxNetwork


async def save_sandbox(subject: Subject, directory: str, *, leave_running: bool) -> Checkpoint:
    """Save a sandbox to a directory. It stands still meanwhile, and goes on then, also where this fails.

    Unless it is to be left running its container has ended with SIGKILL afterwards, and its VM too. Raise StateError
    and UnsupportedError for what cannot be saved, HostError, DeadlineError; nothing is left in the directory then.
    """
    vm = subject.vm
    host = probe_host(subject.site)
    _check(subject, host)
    disks, cards = _list_plugged(subject)
    making = _make_place(subject.site, directory)
    began = time.monotonic()
    try:
        async with vm.guest.hold():
            try:
                await vm.machine.save(making, timeout=_SAVE_TIMEOUT)
                await asyncio.to_thread(_copy_disks, making, subject.container, disks)
                saved = _describe(subject, host, disks, cards)
                if not leave_running:
                    await asyncio.to_thread(_finish, making, directory, saved)
            except BaseException:
                with suppress(KataError):
                    await vm.machine.resume()
                raise
            if leave_running:
                await vm.machine.resume()
            else:
                subject.container.lose(_KILLED)
                await vm.machine.stop(timeout=0)
        if leave_running:
            saved = saved._replace(stood_still=round(time.monotonic() - began, 3))
            await asyncio.to_thread(_finish, making, directory, saved)
    except OSError as error:
        raise HostError(f"the checkpoint at {directory} cannot be written: {error.strerror}") from error
    finally:
        remove_tree(making)
    return saved


def _check(subject: Subject, host: Host) -> None:
    """Raise StateError for a sandbox that is not to be saved now, UnsupportedError for one that never is."""
    site, vm, container, _ = subject
    if container.status not in (Status.RUNNING, Status.PAUSED):
        raise StateError(f"container {container.id} is {container.status}: only one that runs can be saved")
    if container.execs:
        names = ", ".join(sorted(container.execs))
        raise StateError(f"container {container.id} has other processes ({names})", hint="save it when they have ended")
    if vm.share is not None:
        raise UnsupportedError(
            f"sandbox {site.id} shares files with its guest by virtio-fs, with which QEMU saves no VM",
            hint='start it with shared_fs = "none" in the configuration',
        )
    obstacle = find_checkpoint_obstacle(site.config, vm.size, host)
    if obstacle:
        raise UnsupportedError(f"sandbox {site.id} cannot be saved: {obstacle}")


def _list_plugged(subject: Subject) -> tuple[list[SavedDisk], list[SavedCard]]:
    """Return what was plugged into the VM. Raise UnsupportedError for a device that is not known how to be restored."""
    places = subject.vm.machine.find_places()
    disks = [
        SavedDisk(
            id=held.device.id,
            place=places.pop(held.device.id),
            driver=held.address.driver,
            source=held.address.source,
            path=held.path,
            local=held.local,
            readonly=held.device.readonly,
            direct=held.device.direct,
            no_flush=held.device.no_flush,
            aio=held.device.aio,
        )
        for held in subject.container.list_disks()
    ]
    cards = []
    for name, link, mac in subject.network.list_cards():
        if name not in places:
            raise UnsupportedError(
                f"sandbox {subject.site.id} cannot be saved: the card of {link} is in no hot-plug port"
            )
        cards.append(SavedCard(places.pop(name), mac, subject.network.queues, link))
    if places:
        raise UnsupportedError(f"sandbox {subject.site.id} cannot be saved with its devices {', '.join(places)}")
    return disks, cards


def _make_place(site: Site, directory: str) -> str:
    """Make the directory unless it is there, and in it one for what is not whole yet. Return that one's path."""
    making = f"{directory}/{MAKING}"
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        record_resource(site.directory, Kind.TREE, making)
        remove_tree(making)  # of one that died
        os.mkdir(making, mode=0o700)
    except OSError as error:
        raise HostError(f"a checkpoint cannot be made at {directory}: {error.strerror}") from error
    return making


def _copy_disks(making: str, container: Container, disks: list[SavedDisk]) -> None:
    """Copy what the disks hold that are the container's own. Those are listed with their files from then on."""
    for number, (held, disk) in enumerate(zip(container.list_disks(), disks, strict=True)):
        if disk.readonly and not disk.path.startswith(f"{CACHE}/"):
            disks[number] = disk._replace(described=describe_file(disk.path))
            continue
        disks[number] = disk._replace(file=f"{DISK}{number}")
        source = container.open_disk(held)
        try:
            _copy_disk(source, f"{making}/{DISK}{number}", is_image=disk.readonly)
        finally:
            os.close(source)


def _copy_disk(source: int, path: str, *, is_image: bool) -> None:
    if is_image:  # nobody ever writes to it
        with suppress(OSError):
            os.link(f"/proc/self/fd/{source}", path, follow_symlinks=True)
            return
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        copy_blocks(source, target)
    finally:
        os.close(target)


def _describe(subject: Subject, host: Host, disks: list[SavedDisk], cards: list[SavedCard]) -> Checkpoint:
    site, vm, container = subject.site, subject.vm, subject.container
    identity, files = identify_saved(site, vm.size, host, Plan(shares=False, ports=vm.ports, scsi=vm.scsi))
    record = container.record
    name = vm.guest.names.get(container.id, container.id)
    return Checkpoint(
        sandbox=site.id,
        root=site.state,
        identity=identity,
        files=tuple(describe_file(path) for path in files),
        size=vm.size,
        ports=vm.ports,
        scsi=vm.scsi,
        container=SavedContainer(record.id, name, record.bundle, record.rootfs, container.status == Status.PAUSED),
        disks=tuple(disks),
        cards=tuple(cards),
        stood_still=0.0,
        sums={},
    )


def _finish(making: str, directory: str, saved: Checkpoint) -> None:
    publish_checkpoint(making, directory, saved._replace(sums=sum_files(making, list_files(saved))))
