"""The engine's OCI spec as the guest must see it, and what the host has to share for that.

Pure: nothing is bound or opened here. Host paths become paths of the share, what the VM provides by itself goes
away (network namespace, host cgroup path, host hooks), and what stays is enforced in the guest by crun.
"""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from kata.errors import UnsupportedError, UsageError
from kata.protocol.messages import oci
from kata.protocol.messages.agent import Storage
from kata.protocol.oci.document import load_message
from kata.protocol.oci.pod import find_role
from kata.sandbox.diskroot import DiskRoot, find_guest_root
from kata.sandbox.guestpaths import GUEST_SHARE, GUEST_SHM
from kata.sandbox.hostdisk import HostDisk, find_disks
from kata.sandbox.iommugroup import Group, find_groups, is_vfio_path
from kata.sandbox.kubelet import find_memory_volume, find_published_volume, is_scratch
from kata.sys.digest import digest_bytes
from kata.sys.mount import MountPoint, list_mounts

_CONTAINER_TYPE = "io.katacontainers.pkg.oci.container_type"
_BUNDLE_PATH = "io.katacontainers.pkg.oci.bundle_path"
_DROPPED_NAMESPACES = {"network", "time"}
_OWN_TYPES = {"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "devtmpfs"}
"""File systems without a source: what a spec names there is for people."""

_READ_ONLY = {"ro", "rro"}
_FOLLOWING = {"slave", "rslave", "shared", "rshared"}
"""Propagation from the host. Nothing that the guest mounts gets out."""

_KERNELS_OWN = {
    *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs"),
    *("fusectl", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs", "tracefs"),
}
_MOST_BELOW = 32
_PATH_OPTIONS = {"lowerdir", "upperdir", "workdir"}
_NAME_SIZE = 32  # characters of a source in its name, which has 255 bytes with the id of the container


class Shared(NamedTuple):
    """A host path to be bound into the share under `name`.

    A `local` one is what the sandbox's own daemon mounted, where the engine left that to it. `top_only` restricts
    `readonly` to the file system of the path itself. What is mounted below it later is shown too with `follow`.
    """

    source: str
    name: str
    readonly: bool
    local: bool = False
    top_only: bool = False
    follow: bool = False


class Translation(NamedTuple):
    """What a container's spec comes to: the guest's spec, the binds it needs, its guest storages, its disks.

    `shared` has the root first, unless it is on the disks of `root`.
    """

    spec: oci.Spec
    shared: tuple[Shared, ...]
    storages: tuple[Storage, ...]
    sandbox_pidns: bool
    disks: tuple[HostDisk, ...] = ()
    groups: tuple[Group, ...] = ()
    root: DiskRoot | None = None


def translate_spec(
    document: dict[str, Any],
    container: str,
    bundle: str,
    root: str = "",
    *,
    list_points: Callable[[], Sequence[MountPoint]] = list_mounts,
) -> Translation:
    """Translate `document`, the config.json of `bundle`, of the container with the id `container`.

    `root` is where the host's files are to be looked at: those of another mount namespace are below /proc/PID/root.
    `list_points` tells what is mounted there.

    Raise UsageError for a malformed spec and UnsupportedError for what a VM cannot do.
    """
    spec = load_message(oci.Spec, document, "config.json")
    if spec.Root is None or spec.Process is None:
        raise UsageError(f"container {container}: config.json has no {'root' if spec.Root is None else 'process'}")
    shared = [Shared(os.path.join(bundle, spec.Root.Path), f"{container}/rootfs", readonly=False, local=True)]
    spec.Root.Path = f"{GUEST_SHARE}/{container}/rootfs"
    spec.Mounts, storages = _translate_mounts(spec, container, bundle, root, shared, cache(list_points))
    spec.Annotations = spec.Annotations | {
        _CONTAINER_TYPE: find_role(spec.Annotations),
        _BUNDLE_PATH: bundle,
    }
    if spec.Hooks is not None:
        spec.Hooks = oci.Hooks(StartContainer=spec.Hooks.StartContainer)
    spec.Process.ApparmorProfile = spec.Process.SelinuxLabel = ""
    sandbox_pidns = False
    disks, groups = find_disks(document), find_groups(document)
    if spec.Linux is not None:
        sandbox_pidns = _translate_linux(spec.Linux, container, disks)
    return Translation(spec, tuple(shared), tuple(storages), sandbox_pidns, disks, groups)


def _translate_linux(linux: oci.Linux, container: str, disks: Sequence[HostDisk]) -> bool:
    linux.MountLabel = ""
    linux.IntelRdt = None
    linux.CgroupsPath = f"/kata/{container}"
    namespaces = []
    sandbox_pidns = False
    for namespace in linux.Namespaces:
        if namespace.Type == "user" and namespace.Path:
            raise UnsupportedError(f"container {container} cannot join the user namespace {namespace.Path} of the host")
        if namespace.Type == "pid" and namespace.Path:
            sandbox_pidns = True
        elif namespace.Type not in _DROPPED_NAMESPACES:
            namespaces.append(oci.LinuxNamespace(Type=namespace.Type))
    linux.Namespaces = namespaces
    given = {(disk.major, disk.minor) for disk in disks}
    vfio = {(device.Major, device.Minor) for device in linux.Devices if is_vfio_path(device.Path)}
    linux.Devices = [
        device
        for device in linux.Devices
        if not is_vfio_path(device.Path) and (device.Type != "b" or (device.Major, device.Minor) in given)
    ]
    if linux.Resources is not None:
        linux.Resources.BlockIO = linux.Resources.Network = None
        linux.Resources.Devices = [
            rule
            for rule in linux.Resources.Devices
            if (rule.Type != "b" or (rule.Major, rule.Minor) in given)
            and (rule.Type != "c" or (rule.Major, rule.Minor) not in vfio)
        ]
        if linux.Resources.CPU is not None:
            linux.Resources.CPU.Cpus = linux.Resources.CPU.Mems = ""
    return sandbox_pidns


def _keep_mount(mount: oci.Mount, container: str) -> oci.Mount:
    """Return a mount that the guest makes of its own. What it names of the host would be another thing there."""
    for option in mount.options:
        key, _, value = option.partition("=")
        if key in _PATH_OPTIONS or value.startswith("/"):
            raise UnsupportedError(
                f"container {container}: the {mount.type} mount on {mount.destination} names the host's {option}",
                hint="mount it on the host and bind it into the container",
            )
    if mount.type in _OWN_TYPES:
        name = mount.type if "/" in mount.source else mount.source or mount.type
        return oci.Mount(destination=mount.destination, type=mount.type, source=name, options=list(mount.options))
    if "/" in mount.source:
        raise UnsupportedError(
            f"container {container}: the {mount.type} mount on {mount.destination} is of {mount.source} on the host",
            hint="mount it on the host and bind it into the container",
        )
    return mount


def _translate_mounts(
    spec: oci.Spec,
    container: str,
    bundle: str,
    root: str,
    shared: list[Shared],
    list_points: Callable[[], Sequence[MountPoint]],
) -> tuple[list[oci.Mount], list[Storage]]:
    """Return the guest's mounts and the storages that they show; add to `shared` what they need of the host."""
    mounts: list[oci.Mount] = []
    storages: dict[str, Storage] = {}
    resources = spec.Linux.Resources if spec.Linux is not None else None
    limits = resources.HugepageLimits if resources is not None else []
    for mount in spec.Mounts:
        source = os.path.join(bundle, mount.source)
        found = find_memory_volume(container, source, root, limits, list_points) if _is_bind(mount) else ()
        if not found:
            count = len(shared)
            mounts.append(_translate_mount(mount, container, bundle, root, shared, list_points))
            if not shared[count:] or not os.path.isdir(root + source):
                continue
            found = find_published_volume(source, mount.options, shared[count].name)
            if not found:
                if "ro" in mount.options and shared[count].readonly:
                    shared[count], writable = _leave_writable(shared[count], mounts[-1], list_points)
                    mounts += writable
                continue
            mounts.pop()
        storages |= {storage.mount_point: storage for storage in found}
        mounts.append(_show(found[-1].mount_point, mount))
    return mounts, list(storages.values())


def _show(source: str, mount: oci.Mount) -> oci.Mount:
    """Return the bind mount of a path of the guest that takes the place of an engine's mount."""
    return oci.Mount(destination=mount.destination, type="bind", source=source, options=list(mount.options))


def _is_bind(mount: oci.Mount) -> bool:
    return mount.type == "bind" or bool({"bind", "rbind"} & set(mount.options))


def _translate_mount(
    mount: oci.Mount,
    container: str,
    bundle: str,
    root: str,
    shared: list[Shared],
    list_points: Callable[[], Sequence[MountPoint]],
) -> oci.Mount:
    if not _is_bind(mount):
        return _keep_mount(mount, container)
    if mount.destination == "/dev/shm":
        return oci.Mount(destination=mount.destination, type="bind", source=GUEST_SHM, options=["rbind"])
    source = os.path.join(bundle, mount.source)
    what = f"container {container}: the source {source} of the mount on {mount.destination}"
    exists = bool(mount.source) and os.path.exists(root + source)
    if exists:
        _check_kind(root + source, what)
    if os.path.commonpath([source, "/dev"]) == "/dev" and not os.path.isdir(source) and not os.path.isfile(source):
        return mount
    if not exists:
        raise UsageError(f"{what} is missing")
    words = set(mount.options)
    follow = bool(words & _FOLLOWING)
    # All containers of a pod write into its scratch space, and those that do not are held to that by the guest.
    readonly = set() if is_scratch(source) else words & _READ_ONLY
    below = [] if follow else _list_mounts_in(source, root, list_points)
    name = _name_shared(source, root, *sorted(readonly), follow, *(point.mount_id for point in below))
    shared.append(Shared(source, name, readonly=bool(readonly), follow=follow))
    return _show(f"{GUEST_SHARE}/{name}", mount)


def _list_mounts_in(source: str, root: str, list_points: Callable[[], Sequence[MountPoint]]) -> list[MountPoint]:
    """Return what is mounted at and below a directory; nothing for a file."""
    if not os.path.isdir(root + source):
        return []
    top = os.path.realpath(source).rstrip("/")
    return [point for point in list_points() if point.path == top or point.path.startswith(f"{top}/")]


def _check_kind(path: str, what: str) -> None:
    """Raise UnsupportedError for what only programs of one kernel can meet at."""
    mode = os.stat(path).st_mode
    if stat.S_ISSOCK(mode):
        raise UnsupportedError(
            f"{what} is a socket, and the VM's kernel is another, which cannot connect to it",
            hint="mount the directory that it is in if the container can do without it, or offer the service over TCP",
        )
    if stat.S_ISFIFO(mode):
        raise UnsupportedError(
            f"{what} is a FIFO, and the VM's kernel is another: what is written into it there does not come out here",
            hint="mount the directory that it is in if only containers of this pod use it",
        )
    if stat.S_ISBLK(mode):
        raise UnsupportedError(
            f"{what} is a block device, and the VM's kernel does not have it under that number",
            hint="give it as a device (`--device`, volumeDevices), so that it is plugged into the VM",
        )


def _name_shared(source: str, root: str, *traits: object) -> str:
    """Name what is shared: what the containers of a pod have of the host in the same way has one name for all."""
    try:
        status = os.stat(root + source)
        identity = f"{status.st_dev}:{status.st_ino}"
    except OSError:  # whoever puts it into the share says what is wrong
        identity = ""
    digest = digest_bytes(":".join([source, identity, *map(str, traits)]).encode(errors="surrogateescape")).hex()[:16]
    return f"{digest}-{os.path.basename(source)[-_NAME_SIZE:] or 'root'}"


def add_pod_mounts(translation: Translation, mounts: Sequence[Mapping[str, Any]]) -> Translation:
    """Show the container what its pod's own spec binds, except where something else is mounted for it."""
    spec, shared = translation.spec, list(translation.shared)
    readonly = spec.Root is not None and spec.Root.Readonly
    taken = {os.path.normpath(mount.destination) for mount in spec.Mounts}
    for mount in mounts:
        place, source = mount["destination"], mount["source"]
        if place not in taken:
            name = _name_shared(source, "", "local", readonly)
            shared.append(Shared(source, name, readonly=readonly, local=True))
            options = [*mount["options"], "ro" if readonly else "rw"]
            spec.Mounts.append(
                oci.Mount(destination=place, type="bind", source=f"{GUEST_SHARE}/{name}", options=options)
            )
    return translation._replace(shared=tuple(shared))


def take_root_from_disks(translation: Translation, root: DiskRoot, container: str) -> Translation:
    """Have the guest mount the container's root from disks, instead of sharing it."""
    assert translation.spec.Root is not None
    translation.spec.Root.Path = find_guest_root(container)
    return translation._replace(shared=translation.shared[1:], root=root)


def _leave_writable(
    shared: Shared, mount: oci.Mount, list_points: Callable[[], Sequence[MountPoint]]
) -> tuple[Shared, list[oci.Mount]]:
    """Have `ro` reach the file system of a volume only, not those mounted below it, as mount(2) does.

    Return the volume, and the guest's mounts of those below. In the guest they would be read-only with the volume's,
    which brings them in when somebody goes there. All of a volume stays read-only that has the kernel's own file
    systems below it, or too many, or to which more may come.
    """
    top = os.path.realpath(shared.source).rstrip("/")
    below = [point for point in list_points() if point.path.startswith(f"{top}/")]
    if not below or shared.follow or len(below) > _MOST_BELOW or any(point.fstype in _KERNELS_OWN for point in below):
        return shared, []
    names: list[str] = []
    for point in sorted(below, key=lambda point: point.path):
        name = point.path.removeprefix(f"{top}/")
        if not any(name == other or name.startswith(f"{other}/") for other in names):
            names.append(name)
    options = [option for option in mount.options if option != "ro"]
    return shared._replace(top_only=True), [
        oci.Mount(
            destination=os.path.join(mount.destination, name),
            type="bind",
            source=f"{mount.source}/{name}",
            options=list(options),
        )
        for name in names
    ]
