"""What a container gets of the host: its root, files, volumes and devices, and how they are taken back."""

import os
import stat
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from kata.config.model import SCRATCH_ON_DISK
from kata.errors import KataError
from kata.sandbox.bundle import Bundle
from kata.sandbox.container import Container
from kata.sandbox.containerdisks import ContainerDisks
from kata.sandbox.diskroot import DiskRoot, OfferedRoot, describe_image, pack_root
from kata.sandbox.guestpaths import PUBLISHED
from kata.sandbox.hostfiles import HostFiles
from kata.sandbox.kubelet import list_published
from kata.sandbox.ledger import Kind, record_resource
from kata.sandbox.publisher import Place, Publisher
from kata.sandbox.scratch import ScratchVolume, take_scratch_volumes
from kata.sandbox.site import Site
from kata.sandbox.store import ContainerRecord
from kata.sandbox.translation import Translation, add_pod_mounts, take_root_from_disks
from kata.sandbox.vm import SandboxVm
from kata.sandbox.vmdisks import VmDisks
from kata.sandbox.volume import DirectVolume, take_direct_volumes
from kata.storage.directvolume import find_note, forget_sandbox, note_sandbox

if TYPE_CHECKING:
    from kata.sandbox.copies import Copies, Visit
    from kata.sandbox.passthrough import HostGroups


class Prepared(NamedTuple):
    """What a container's spec comes to in the guest, and the volumes of it that are disks."""

    translation: Translation
    volumes: tuple[DirectVolume, ...]
    scratch: tuple[ScratchVolume, ...]


class Provisioner:
    """Provides the containers of one VM. `close` when that has ended."""

    def __init__(self, site: Site, vm: SandboxVm, files: HostFiles, pod_mounts: list[dict[str, Any]]) -> None:
        """`files` finds the host's files. `pod_mounts` are OCI's, for every container."""
        self._site = site
        self._vm = vm
        self._files = files
        self._pod_mounts = pod_mounts
        self._disks = VmDisks(vm.machine, site.config.hypervisor)
        self._publisher: Publisher | None = None
        self._copies = self._open_copies() if vm.share is None else None

    def _open_copies(self) -> "Copies":
        from kata.sandbox.copies import Copies  # noqa: PLC0415 - for VMs that share no files

        return Copies(self._vm.guest, self._site.log)

    @property
    def hold_data(self) -> bool:
        """Whether the guest may have written what is not on a disk yet."""
        return self._disks.hold_data

    async def find_root(self, bundle: Bundle, pid: int, offered: OfferedRoot | None) -> DiskRoot | None:
        """Return the disks that a container's root is on, None for a directory of its bundle."""
        if offered is not None:
            if self._takes_disks(offered.disks, pid):
                return offered.disks
            offered.mount()
        descriptor = self._files.open(pid, bundle.rootfs, os.O_RDONLY, local=True)
        try:
            readonly = bool(bundle.spec["root"].get("readonly"))
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                return describe_image(bundle.rootfs, descriptor, readonly=readonly)
            if self._copies is None:
                return None
            with self._site.timeline.measure("pack root"):
                return await pack_root(bundle.rootfs, descriptor)
        finally:
            os.close(descriptor)

    def _takes_disks(self, root: DiskRoot, pid: int) -> bool:
        """Say whether the guest mounts a root from its disks.

        With the upper layer in a directory, what is written belongs there, as the engine looks for it. Without shared
        files it cannot get there, and the disks are as good as a copy of all layers as long as the directory is empty.
        """
        if self._site.config.hypervisor.disable_block_device_use or not root.directory:
            return not self._site.config.hypervisor.disable_block_device_use
        return self._copies is not None and not self._files.visit(pid, partial(os.listdir, root.directory))

    def prepare(self, bundle: Bundle, name: str, pid: int, root: DiskRoot | None) -> Prepared:
        """Translate a container's spec for the guest, which knows it by `name`, with its root on the disks `root`."""
        translation = add_pod_mounts(self._files.translate(bundle, name, pid), self._pod_mounts)
        if root is not None:
            translation = take_root_from_disks(translation, root, name)
        translation, volumes = take_direct_volumes(translation)
        scratch: tuple[ScratchVolume, ...] = ()
        runtime = self._site.config.runtime
        if runtime.emptydir_mode == SCRATCH_ON_DISK:
            visit, list_points = partial(self._files.visit, pid), partial(self._files.list_mounts, pid)
            translation, scratch = take_scratch_volumes(translation, visit, list_points)
        if runtime.disable_guest_seccomp and translation.spec.Linux is not None:
            translation.spec.Linux.Seccomp = None
        return Prepared(translation, volumes, scratch)

    def make_container(
        self, bundle: Bundle, record: ContainerRecord, prepared: Prepared, home: int | None
    ) -> Container:
        """Return the container, which has nothing yet. `home` is as for `Container`."""
        disks = ContainerDisks(self._disks, record.id, partial(self._files.open, record.pid))
        groups = self._open_groups(prepared.translation, record.id)
        volumes, scratch, shared = prepared.volumes, prepared.scratch, prepared.translation.shared
        state, guest = self._site.state, self._vm.guest
        return Container(state, guest, bundle, record, shared, home, disks, volumes, scratch, groups)

    def _open_groups(self, translation: Translation, container: str) -> "HostGroups | None":
        if not translation.groups:
            return None
        from kata.sandbox.passthrough import HostGroups  # noqa: PLC0415 - few containers have one

        return HostGroups(self._vm.machine, self._site.config, self._site.directory, self._site.id, container)

    async def give(self, container: Container, translation: Translation) -> tuple[Translation, list[Place]]:
        """Share with the guest what a container has of the host, or copy it.

        Return what it comes to, and what is published of it: to be followed when the container is created.
        """
        pid = container.record.pid
        for volume in container.volumes:
            record_resource(self._site.directory, Kind.FILE, find_note(volume.path, self._site.id))
            note_sandbox(volume.path, self._site.id)
        published: list[Place] = []
        with self._site.timeline.measure("share files"):
            if self._vm.share is not None:
                published = list_published(translation.storages, self._vm.share.mounts)
                self._files.put_into(self._vm.share, translation.shared, pid, container.id)
                if published:
                    self._vm.share.make_directory(PUBLISHED)
            elif self._copies is not None:
                visit = partial(self._files.visit, pid)
                translation = await self._copies.put(translation, container.id, visit)
                container.farewell = self._find_farewell(translation, container.id, visit)
        return translation, published

    def _find_farewell(
        self, translation: Translation, container: str, visit: "Visit"
    ) -> Callable[[], Awaitable[None]] | None:
        """Return what takes a container's termination message to the host, None where it has none."""
        from kata.sandbox.termination import TerminationMessage, find_message_file  # noqa: PLC0415 - as for copies

        path = find_message_file(translation.spec, translation.shared)
        if not path:
            return None
        message = TerminationMessage(self._vm.guest, container, path, partial(visit, local=False), self._site.log)
        return message.take_back

    def follow(self, container: Container, published: list[Place]) -> None:
        """Publish what a container has of volumes that change, from now on."""
        if published:
            self._publisher = self._publisher or Publisher(self._vm.guest, self._site.log)
            self._publisher.follow(container.id, published)

    def forget(self, container: Container, others: Iterable[Container]) -> None:
        """Drop what is kept of a container, but for what `others` have too; what the guest has of it stays."""
        if self._publisher is not None:
            self._publisher.forget(container.id)
        held = {volume.path for other in others for volume in other.volumes}
        for volume in container.volumes:
            if volume.path not in held:
                forget_sandbox(volume.path, self._site.id)

    async def take_back(self, container: Container) -> None:
        """Take from the guest what it has for a container alone."""
        try:
            if self._vm.share is not None:
                container.unshare(self._vm.share)
            elif self._copies is not None:
                await self._copies.remove(container.id)
        except KataError as error:
            self._site.log.write("error", f"the files of container {container.id} stay shared", error=str(error))

    def stop_following(self) -> None:
        """Look after nothing any more that may change on the host."""
        if self._copies is not None:
            self._copies.close()
        if self._publisher is not None:
            self._publisher.close()

    def close(self) -> None:
        """Let others have the disks."""
        self._disks.close()
