"""A container's root file system: the mounts that containerd describes, made in the shim's own mount namespace."""

import os
from collections.abc import Sequence
from contextlib import suppress

from kata.errors import HostError
from kata.protocol.messages.task import Mount
from kata.sys import linux
from kata.sys.mount import unmount_below
from kata.sys.mountoption import parse_options

_ATTRIBUTES = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


def mount_rootfs(mounts: Sequence[Mount], target: str) -> None:
    """Mount them one on another at `target`. Raise HostError that says which; nothing is left then."""
    if not mounts:
        return
    os.makedirs(target, mode=0o711, exist_ok=True)
    for mount in mounts:
        flags, data = parse_options(mount.options)
        try:
            linux.mount(mount.source, target, "" if flags & linux.MS_BIND else mount.type, flags, data)
            if flags & linux.MS_BIND and flags & _ATTRIBUTES:
                # A bind takes its attributes in a second step only.
                linux.mount("none", target, "", flags & _ATTRIBUTES | linux.MS_BIND | linux.MS_REMOUNT)
        except OSError as error:
            unmount_rootfs(target)
            raise HostError(
                f"{mount.source} ({mount.type}) cannot be mounted at {target}: {os.strerror(error.errno or 0)}",
                hint=f"its options are {','.join(mount.options)}",
            ) from error


def unmount_rootfs(target: str) -> None:
    """Take everything off `target`. What fails vanishes with the shim."""
    with suppress(OSError):
        unmount_below(target)
