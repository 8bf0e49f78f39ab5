"""Another identity for a guest that is a copy of one that goes on: host name, boot id, machine id.

The kernel makes its boot id once and offers no way to another, so the containers get files over theirs, as
systemd-nspawn does it. What a process has read before it keeps.
"""

import os
import re
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress

from kata.errors import HostError
from kata.protocol.messages.checkpoint import Identity
from kata.sys import linux, mount

_DIRECTORY = "/run/kata-agent/identity"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_MACHINE_ID = "/etc/machine-id"
_ID = re.compile(rb"[0-9a-f]{32}\n?")


def renew_identity(identity: Identity, pids: Sequence[int]) -> None:
    """Give the identity to the containers whose first processes these are. Raise HostError that says which failed."""
    os.makedirs(_DIRECTORY, 0o755, exist_ok=True)
    files = {_BOOT_ID: f"{identity.boot_id}\n", _MACHINE_ID: f"{identity.machine_id}\n"}
    for pid in pids:
        try:
            if identity.hostname:
                _set_host_name(pid, identity.hostname)
            for path, text in files.items():
                _cover(pid, path, text)
        except OSError as error:
            raise HostError(f"the container of process {pid} cannot get an identity: {error}") from error


def _set_host_name(pid: int, hostname: str) -> None:
    """Step into the process's UTS namespace and back; the agent has one thread, so nothing else runs meanwhile."""
    home = os.open("/proc/self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    try:
        theirs = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
        try:
            linux.setns(theirs, linux.CLONE_NEWUTS)
        finally:
            os.close(theirs)
        try:
            socket.sethostname(hostname)
        finally:
            linux.setns(home, linux.CLONE_NEWUTS)
    finally:
        os.close(home)


def _cover(pid: int, path: str, text: str) -> None:
    """Put a file with this text over that of a container which has one."""
    own = f"{_DIRECTORY}/{os.path.basename(path)}"
    with open(own, "w", encoding="ascii") as file:
        file.write(text)
    tree = mount.clone_tree(own)
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def attach() -> None:
        with suppress(FileNotFoundError):
            place = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if path == _BOOT_ID or _holds_id(place):
                    mount.attach_tree(tree, place, readonly=True)
            finally:
                os.close(place)

    try:
        mount.visit_namespace(namespace, attach)
    finally:
        os.close(namespace)
        os.close(tree)


def _holds_id(place: int) -> bool:
    """Say whether a file is a machine id: an empty one tells that the container has none of its own."""
    return stat.S_ISREG(os.fstat(place).st_mode) and _ID.fullmatch(os.read(place, 64)) is not None
