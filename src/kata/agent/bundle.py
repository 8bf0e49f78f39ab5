"""A container's bundle in the guest: its directory, its root, and a specification made to fit the guest."""

import json
import os
from collections.abc import Mapping

from kata.agent import cgroup
from kata.agent.spec import convert_spec
from kata.errors import HostError, UsageError
from kata.protocol.messages.agent import StringUser
from kata.protocol.messages.oci import (
    Linux,
    LinuxDeviceCgroup,
    LinuxNamespace,
    LinuxResources,
    POSIXRlimit,
    Process,
    Root,
    Spec,
)
from kata.sys import mount
from kata.sys.tree import remove_tree

_HOST_ONLY = frozenset({"network", "time"})
_FILES = POSIXRlimit(Type="RLIMIT_NOFILE", Soft=1024, Hard=1 << 19)
_EVERYTHING = LinuxDeviceCgroup(Allow=False, Access="rwm")


class Bundle:
    """The directory of a container below the agent's base, with `config.json` and `rootfs`."""

    def __init__(self, base: str, container_id: str) -> None:
        self.container_id = container_id
        self.directory = f"{base}/{container_id}"
        self.rootfs = f"{self.directory}/rootfs"

    def make(self, root: Root) -> None:
        """Make the directory and show the container's root in it. Raise UsageError, HostError."""
        os.makedirs(self.directory, 0o700, exist_ok=True)
        if os.path.normpath(root.Path) == self.rootfs:
            return  # a storage is mounted there already
        if not os.path.isdir(root.Path):
            raise UsageError(f"the root {root.Path!r} of container {self.container_id} is no directory in the guest")
        os.makedirs(self.rootfs, 0o755, exist_ok=True)
        try:
            mount.bind(root.Path, self.rootfs)
        except OSError as error:
            raise HostError(
                f"the root {root.Path} of container {self.container_id} cannot be bound: {error.strerror}"
            ) from error

    def write(self, spec: Spec) -> None:
        spec.Root = Root(Path=self.rootfs, Readonly=bool(spec.Root and spec.Root.Readonly))
        self.write_json("config.json", convert_spec(spec))

    def write_json(self, name: str, content: object) -> None:
        with open(f"{self.directory}/{name}", "w", encoding="utf-8") as file:
            file.write(json.dumps(content))  # json.dump encodes in Python, not in C: five times as slow

    def remove(self) -> None:
        mount.unmount_below(self.directory)
        remove_tree(self.directory)


def fit_spec(spec: Spec, container_id: str, namespaces: Mapping[str, str]) -> None:
    """Change a specification that was written for a host into one for the guest.

    `namespaces` has the paths of those that containers share here, by kind. Paths that the specification names are
    the host's and are dropped. Raise UsageError when something is missing or cannot be.
    """
    if spec.Process is None or not spec.Process.Args or spec.Root is None:
        raise UsageError(f"the specification of container {container_id} has no process or no root")
    spec.Version = "1.0.2"  # what is written is this version's form, and crun 1.8 refuses 1.1 and newer by name
    spec.Linux = spec.Linux or Linux()
    spec.Linux.CgroupsPath = cgroup.find_path(spec.Linux.CgroupsPath, container_id)
    _join_namespaces(spec, namespaces)
    _apply_network_sysctls(spec.Linux, container_id)
    _confine_devices(spec.Linux)
    fit_process(spec.Process)


def fit_process(process: Process) -> None:
    """Give a process the usual limit of open files where none is asked for: the agent's own is for the agent."""
    process.Cwd = process.Cwd or "/"
    process.ApparmorProfile = ""  # the guest's kernel has none of the host's profiles
    process.SelinuxLabel = ""
    if not any(limit.Type == _FILES.Type for limit in process.Rlimits):
        process.Rlimits.append(_FILES)


def _join_namespaces(spec: Spec, shared: Mapping[str, str]) -> None:
    assert spec.Linux is not None
    kept = []
    for namespace in spec.Linux.Namespaces:
        kind = namespace.Type
        if kind != "pid" and kind not in _HOST_ONLY:
            kept.append(LinuxNamespace(Type=kind, Path=shared.get(kind, "")))
    kept.append(LinuxNamespace(Type="pid", Path=shared.get("pid", "")))
    if not any(namespace.Type == "mount" for namespace in kept):
        kept.append(LinuxNamespace(Type="mount"))
    if not any(namespace.Type == "uts" for namespace in kept):
        spec.Hostname = ""  # crun refuses to name a machine that it shares
    spec.Linux.Namespaces = kept
    spec.Linux.MountLabel = ""


def _apply_network_sysctls(linux_spec: Linux, container_id: str) -> None:
    """Network settings are the guest's: it has one network, so an OCI runtime would refuse to set them."""
    for name in [name for name in linux_spec.Sysctl if name.startswith("net.")]:
        path = "/proc/sys/" + name.replace(".", "/")
        if ".." in path:
            raise UsageError(f"the sysctl {name!r} of container {container_id} is no name")
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(linux_spec.Sysctl[name])
        except OSError as error:
            raise UsageError(
                f"the sysctl {name} of container {container_id} cannot be set: {error.strerror}"
            ) from error
        del linux_spec.Sysctl[name]


def _confine_devices(linux_spec: Linux) -> None:
    """Hosts strip the device rules, whose numbers mean nothing here. Then: nothing but the container's own devices.

    crun itself adds what every container has (null, zero, random, terminals).
    """
    resources = linux_spec.Resources = linux_spec.Resources or LinuxResources()
    if resources.Devices:
        return
    resources.Devices = [_EVERYTHING]
    for device in linux_spec.Devices:
        rule = LinuxDeviceCgroup(Allow=True, Type=device.Type, Major=device.Major, Minor=device.Minor, Access="rwm")
        resources.Devices.append(rule)


def find_string_user(wanted: StringUser | None, process: Process, rootfs: str) -> None:
    """Replace a process's numbers by those of the names that the host gives, if it gives any."""
    if wanted is not None and (wanted.uid or wanted.gid):
        from kata.agent.user import resolve_user  # noqa: PLC0415 - only hosts that pull images in the guest send names

        process.User = resolve_user(wanted, rootfs)


def is_initramfs() -> bool:
    """Whether the root is the kernel's first file system, which pivot_root(2) cannot leave."""
    return any(point.path == "/" and point.fstype == "rootfs" for point in mount.list_mounts("/"))
