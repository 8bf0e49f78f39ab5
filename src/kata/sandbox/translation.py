"""The engine's OCI spec as the guest must see it, and what the host has to share for that.

Pure: nothing is bound or opened here. Host paths become paths of the share, what the VM provides by itself goes
away (network namespace, host cgroup path, host hooks), and what stays is enforced in the guest by crun.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kata.errors import UnsupportedError, UsageError
from kata.protocol.messages import oci
from kata.protocol.messages.agent import Storage
from kata.protocol.oci.document import load_message
from kata.protocol.oci.pod import find_role
from kata.sandbox.disk import Disk, find_disks
from kata.sys.digest import digest_bytes
from kata.sys.mount import MountPoint, list_mounts

GUEST_SHARE = "/run/kata-containers/shared/containers"
GUEST_SHM = "/run/kata-containers/sandbox/shm"
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
    """What a container's spec comes to: the guest's spec, the binds it needs, its guest storages, its disks."""

    spec: oci.Spec
    shared: tuple[Shared, ...]
    storages: tuple[Storage, ...]
    sandbox_pidns: bool
    disks: tuple[Disk, ...] = ()


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
    mounts = []
    for mount in spec.Mounts:
        count = len(shared)
        mounts.append(_translate_mount(mount, container, bundle, root, shared))
        if "ro" in mount.options and shared[count:] and os.path.isdir(root + shared[count].source):
            shared[count], writable = _leave_writable(shared[count], mounts[-1], list_points)
            mounts += writable
    spec.Mounts = mounts
    spec.Annotations = spec.Annotations | {
        _CONTAINER_TYPE: find_role(spec.Annotations),
        _BUNDLE_PATH: bundle,
    }
    if spec.Hooks is not None:
        spec.Hooks = oci.Hooks(StartContainer=spec.Hooks.StartContainer)
    spec.Process.ApparmorProfile = spec.Process.SelinuxLabel = ""
    sandbox_pidns = False
    disks = find_disks(document)
    if spec.Linux is not None:
        sandbox_pidns = _translate_linux(spec.Linux, container, disks)
    return Translation(spec, tuple(shared), (), sandbox_pidns, disks)


def _translate_linux(linux: oci.Linux, container: str, disks: Sequence[Disk]) -> bool:
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
    linux.Devices = [device for device in linux.Devices if device.Type != "b" or (device.Major, device.Minor) in given]
    if linux.Resources is not None:
        linux.Resources.BlockIO = linux.Resources.Network = None
        linux.Resources.Devices = [
            rule for rule in linux.Resources.Devices if rule.Type != "b" or (rule.Major, rule.Minor) in given
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


def _translate_mount(mount: oci.Mount, container: str, bundle: str, root: str, shared: list[Shared]) -> oci.Mount:
    if mount.type != "bind" and not {"bind", "rbind"} & set(mount.options):
        return _keep_mount(mount, container)
    if mount.destination == "/dev/shm":
        return oci.Mount(destination=mount.destination, type="bind", source=GUEST_SHM, options=["rbind"])
    source = os.path.join(bundle, mount.source)
    if os.path.commonpath([source, "/dev"]) == "/dev" and not os.path.isdir(source) and not os.path.isfile(source):
        return mount
    if not mount.source or not os.path.exists(root + source):
        raise UsageError(f"container {container}: the source {source} of the mount on {mount.destination} is missing")
    name = _name_shared(container, len(shared), mount.destination, source)
    words = set(mount.options)
    shared.append(Shared(source, name, readonly=bool(words & _READ_ONLY), follow=bool(words & _FOLLOWING)))
    return oci.Mount(
        destination=mount.destination, type="bind", source=f"{GUEST_SHARE}/{name}", options=list(mount.options)
    )


def _name_shared(container: str, number: int, destination: str, source: str) -> str:
    digest = digest_bytes(f"{number}:{destination}".encode()).hex()[:16]
    return f"{container}-{digest}-{os.path.basename(source)[-_NAME_SIZE:] or 'root'}"


def add_pod_mounts(translation: Translation, mounts: Sequence[Mapping[str, Any]], container: str) -> Translation:
    """Show the container what its pod's own spec binds, except where something else is mounted for it."""
    spec, shared = translation.spec, list(translation.shared)
    readonly = spec.Root is not None and spec.Root.Readonly
    taken = {os.path.normpath(mount.destination) for mount in spec.Mounts}
    for mount in mounts:
        place, source = mount["destination"], mount["source"]
        if place not in taken:
            name = _name_shared(container, len(shared), place, source)
            shared.append(Shared(source, name, readonly=readonly, local=True))
            options = [*mount["options"], "ro" if readonly else "rw"]
            spec.Mounts.append(
                oci.Mount(destination=place, type="bind", source=f"{GUEST_SHARE}/{name}", options=options)
            )
    return translation._replace(shared=tuple(shared))


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
