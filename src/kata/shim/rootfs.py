"""A container's root file system: the mounts that containerd describes, or what CRI-O has mounted, seen by the shim.

They are made in a copy of containerd's mount namespace, where what they are made of is found: a layer that containerd
itself mounted after the shim had started is not in the shim's own. The result moves from there to the shim's, and goes
with it.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress

from kata.errors import HostError, UnsupportedError
from kata.protocol.messages.task import Mount
from kata.shim.layers import find_references, fit_last, get_option, is_layered
from kata.sys import linux
from kata.sys.loop import attach_loop
from kata.sys.mount import attach_tree, clone_tree, set_propagation, unmount_below, visit_namespace
from kata.sys.mountoption import parse_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.sandbox.diskroot import DiskRoot, Layer, OfferedRoot

_ATTRIBUTES = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
_PAGE = 4096
_SHOWN = 1000
_LOWER = "lowerdir="
_ON_DISKS = ("ext4", "xfs", "erofs")
_ID_MAPS = ("uidmap=", "gidmap=")


def prepare_rootfs(mounts: Sequence[Mount], bundle: str, namespace: int) -> "tuple[str, OfferedRoot | None]":
    """Have a bundle's root in the shim's namespace, and return where: `unmount_rootfs` takes it off there again.

    What the guest may mount by itself is not mounted yet, and returned too.

    CRI-O describes no mounts. It made them itself, below a directory that it made private, so those of a pod's later
    containers do not come to the shim by themselves. Raise what `mount_rootfs` raises, and UsageError for the bundle.
    """
    from kata.sandbox.bundle import read_bundle  # noqa: PLC0415 - what a VM needs is imported for the first one

    target = f"{bundle}/rootfs" if mounts else read_bundle(bundle).rootfs
    offered = find_disk_root(mounts)
    if offered is None:
        mount_rootfs(mounts, target, namespace)
        return target, None
    from kata.sandbox.diskroot import OfferedRoot  # noqa: PLC0415 - the same

    os.makedirs(target, mode=0o711, exist_ok=True)
    return target, OfferedRoot(offered, lambda: mount_rootfs(mounts, target, namespace))


def find_disk_root(mounts: Sequence[Mount]) -> "DiskRoot | None":
    """Return the disks that mounts are of, None when the guest cannot mount them by itself."""
    *layers, last = mounts or [Mount()]
    if any(mount.type not in _ON_DISKS or mount.target for mount in (layers if is_layered(mounts) else mounts)):
        return None
    from kata.sandbox.diskroot import DiskRoot  # noqa: PLC0415 - what a VM needs is imported for the first one

    if not is_layered(mounts):
        return DiskRoot((_describe_layer(last),)) if len(mounts) == 1 else None
    lower = find_references(last.source + get_option(last, "lowerdir"))
    if not lower or max(lower) >= len(layers):
        return None
    below = tuple(_describe_layer(layers[number]) for number in lower)
    upper = get_option(last, "upperdir")
    if not upper:
        return DiskRoot(below, overlay=len(below) > 1, readonly=True)
    return _add_upper(DiskRoot(below, overlay=True), upper, layers)


def _add_upper(root: "DiskRoot", upper: str, layers: Sequence[Mount]) -> "DiskRoot | None":
    writable = find_references(upper)
    if not writable and os.path.isabs(upper):
        return root._replace(directory=upper)
    if not writable or not upper.endswith("}}/upper") or max(writable) >= len(layers):
        return None
    return root._replace(upper=_describe_layer(layers[writable[0]]))


def _describe_layer(mount: Mount) -> "Layer":
    from kata.sandbox.diskroot import Layer  # noqa: PLC0415 - what a VM needs is imported for the first one

    options = tuple(option for option in mount.options if option not in ("loop", "direct-io"))
    return Layer(mount.source, mount.type, options, readonly="ro" in options, direct="direct-io" in mount.options)


def mount_rootfs(mounts: Sequence[Mount], target: str, namespace: int) -> None:
    """Mount them one on another at `target`, on what is there in containerd's mount namespace, a descriptor.

    Raise HostError or UnsupportedError that says which of them; nothing is left then.
    """
    for mount in mounts:
        if any(option.startswith(_ID_MAPS) for option in mount.options):
            raise UnsupportedError(
                f"{mount.source} ({mount.type}) cannot be mounted at {target} with other owners",
                hint="run the container without a user namespace: in the VM its root is no user of the host",
            )
    os.makedirs(target, mode=0o711, exist_ok=True)

    def build() -> int:
        linux.unshare(linux.CLONE_NEWNS)
        set_propagation("/", linux.MS_PRIVATE, recursive=True)
        for mount in _mount_layers(mounts, target) if is_layered(mounts) else mounts:
            _mount(mount, target)
        return clone_tree(target)

    tree = visit_namespace(namespace, build)
    place = os.open(target, os.O_PATH | os.O_CLOEXEC)
    try:
        attach_tree(tree, place, readonly=False)
    finally:
        os.close(place)
        os.close(tree)


def _mount_layers(mounts: Sequence[Mount], target: str) -> list[Mount]:
    """Mount all but the last below `target`, where that one will hide them, and return that one for their places."""
    linux.mount("none", target, "tmpfs")
    places = []
    for number, mount in enumerate(mounts[:-1]):
        places.append(f"{target}/{number}")
        os.mkdir(places[-1])
        _mount(mount, places[-1])
    return [fit_last(mounts, places)]


def _mount(mount: Mount, target: str) -> None:
    if mount.target:
        target = os.path.join(target, mount.target.lstrip("/"))
    loop = -1
    try:
        source, options = mount.source, list(mount.options)
        if "loop" in options:
            options.remove("loop")
            direct = "direct-io" in options
            options = [option for option in options if option != "direct-io"]
            loop, source = attach_loop(source, readonly="ro" in options, direct=direct)
        if mount.type == "overlay":
            options = _shorten_overlay(options)
        flags, data = parse_options(options)
        if len(data) >= _PAGE:  # the kernel would cut it, without a word
            raise OSError(errno.E2BIG, "the options are longer than a page")
        linux.mount(source, target, "" if flags & linux.MS_BIND else mount.type, flags, data)
        if flags & linux.MS_BIND and flags & _ATTRIBUTES:
            # A bind takes its attributes in a second step only.
            linux.mount("none", target, "", flags & _ATTRIBUTES | linux.MS_BIND | linux.MS_REMOUNT)
    except OSError as error:
        raise HostError(
            f"{mount.source} ({mount.type}) cannot be mounted at {target}: {os.strerror(error.errno or 0)}",
            hint=f"its options are {','.join(mount.options)[:_SHOWN]}",
        ) from error
    finally:
        if loop >= 0:
            os.close(loop)


def _shorten_overlay(options: list[str]) -> list[str]:
    """Make room in the one page that mount(2) takes: name many layers from the directory that they have in common.

    This thread goes to that directory.
    """
    if len(",".join(options)) < _PAGE:
        return options
    place = next((place for place, option in enumerate(options) if option.startswith(_LOWER)), -1)
    layers = options[place].removeprefix(_LOWER).split(":") if place >= 0 else []
    if not layers or not all(os.path.isabs(layer) for layer in layers):
        return options
    common = os.path.commonpath(layers)
    os.chdir(common)
    shortened = ":".join(os.path.relpath(layer, common) for layer in layers)
    return [*options[:place], f"{_LOWER}{shortened}", *options[place + 1 :]]


def unmount_rootfs(target: str) -> None:
    """Take everything off `target`. What fails vanishes with the shim."""
    with suppress(OSError):
        unmount_below(target)
