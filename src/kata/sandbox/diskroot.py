"""A container's root on disks: file systems in files and block devices of the host, which the guest mounts itself."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from kata.errors import UnsupportedError
from kata.protocol.messages.agent import Storage
from kata.sandbox.containerdisks import ContainerDisks
from kata.sys.superblock import find_filesystem

GUEST_BASE = "/run/kata-containers"
_LAYERS = f"{GUEST_BASE}/sandbox/layers"
_OVERLAY_WRITABLE = "io.katacontainers.fs-opt.overlay-rw"
_CREATE_DIRECTORY = "io.katacontainers.volume.overlayfs.create_directory="
_READ_ONLY_TYPES = ("erofs",)


class Layer(NamedTuple):
    """A file system in the file or block device at `path`, with the options of its mount(8).

    `direct` bypasses the host's page cache. A `local` one was made by this process.
    """

    path: str
    fstype: str
    options: tuple[str, ...] = ()
    readonly: bool = False
    direct: bool = False
    local: bool = False


class DiskRoot(NamedTuple):
    """The layers of a root, the top one first.

    One alone is the root. With `overlay` they are below an overlay, whose upper layer is in the guest's memory, in the
    directory `upper` of the disk of this name, or with `readonly` missing. With `directory` the engine has the upper
    layer in that directory of the host, which a guest with shared files writes to, and no other can.
    """

    layers: tuple[Layer, ...]
    overlay: bool = False
    upper: Layer | None = None
    readonly: bool = False
    directory: str = ""

    def count_disks(self) -> int:
        """Return how many disks a VM with shared files needs for it."""
        return 0 if self.directory else len(self.layers) + (self.upper is not None)


class OfferedRoot(NamedTuple):
    """A root that can be plugged in, or that `mount` mounts on the host at the bundle's root."""

    disks: DiskRoot
    mount: Callable[[], object]


def find_guest_root(container: str) -> str:
    """Return where the guest has the root of a container that is on disks."""
    return f"{GUEST_BASE}/{container}/rootfs"


def describe_image(path: str, descriptor: int, *, readonly: bool) -> DiskRoot:
    """Return the root that is in a file or block device. What cannot be written gets an overlay in the guest's memory.

    Raise UnsupportedError for a file system that the guest has not.
    """
    fstype = find_filesystem(descriptor)
    if not fstype:
        raise UnsupportedError(
            f"the root {path} holds no file system that the guest can mount", hint="it can mount ext4, xfs and erofs"
        )
    layer = Layer(path, fstype, readonly=readonly or fstype in _READ_ONLY_TYPES)
    # Also for a container that may not write: what is mounted in it may lack its place.
    return DiskRoot((layer,), overlay=layer.readonly)


async def pack_root(path: str, descriptor: int) -> DiskRoot:
    """Return the root that a directory becomes where no files are shared: an image of it, below an overlay.

    Raise what `pack_directory` raises.
    """
    from kata.storage.pack import pack_directory  # noqa: PLC0415 - for VMs that share no files

    image = await asyncio.to_thread(pack_directory, path, descriptor)
    return DiskRoot((Layer(image, "erofs", readonly=True, local=True),), overlay=True)


async def plug_root(root: DiskRoot, disks: ContainerDisks, container: str) -> list[Storage]:
    """Plug the disks of a root in, and return what the agent is to mount, the last at `find_guest_root`.

    Raise what `ContainerDisks.plug_file` raises; what was plugged in before is the disks' to take out.
    """
    point = find_guest_root(container)
    if not root.overlay:
        return [await _plug_layer(root.layers[0], disks, point)]
    # Those that another container of the pod has are the same disks, and mounted once.
    storages = [await _plug_layer(layer, disks) for layer in root.layers]
    lower = ":".join(storage.mount_point for storage in storages)
    overlay = Storage(driver="overlayfs", source="overlay", fstype="overlay", mount_point=point)
    overlay.options = [f"lowerdir={lower}"]
    if root.upper is not None:
        storages.append(await _plug_layer(root.upper, disks))
        for option, name in (("upperdir", "upper"), ("workdir", "work")):
            directory = f"{storages[-1].mount_point}/{name}"
            overlay.options.append(f"{option}={directory}")
            overlay.driver_options.append(f"{_CREATE_DIRECTORY}{directory}")
    elif not root.readonly:
        overlay.options.append(_OVERLAY_WRITABLE)
    return [*storages, overlay]


async def _plug_layer(layer: Layer, disks: ContainerDisks, point: str = "") -> Storage:
    address = await disks.plug_file(layer.path, readonly=layer.readonly, direct=layer.direct, local=layer.local)
    options = [option for option in layer.options if option not in ("ro", "rw")]
    options.append("ro" if layer.readonly else "rw")
    if layer.fstype == "xfs":
        options.append("nouuid")  # snapshots of one image have its id, and xfs mounts no two of an id
    name = "".join(sign if sign.isalnum() else "-" for sign in address.source)
    return Storage(
        driver=address.driver,
        source=address.source,
        fstype=layer.fstype,
        options=options,
        mount_point=point or f"{_LAYERS}/{address.driver}-{name}",
    )
