"""Namespaces that the containers of a sandbox share: IPC and UTS."""

import os
import socket

from kata.sys import linux

DIRECTORY = "/run/kata-agent/ns"
_KINDS = {"ipc": 0x08000000, "uts": 0x04000000}  # CLONE_NEWIPC, CLONE_NEWUTS


def make_shared_namespaces(hostname: str) -> dict[str, str]:
    """Make both and bind them to files, by which they stay alive. Return the paths by kind.

    The agent steps into the new ones and back; it has one thread, so nothing else runs meanwhile.
    Raise OSError.
    """
    os.makedirs(DIRECTORY, 0o755, exist_ok=True)
    paths = {}
    for kind, flag in _KINDS.items():
        path = f"{DIRECTORY}/{kind}"
        home = os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
        try:
            linux.unshare(flag)
            try:
                if kind == "uts" and hostname:
                    socket.sethostname(hostname)
                linux.mount(f"/proc/self/ns/{kind}", path, flags=linux.MS_BIND)
            finally:
                linux.setns(home, flag)
        finally:
            os.close(home)
        paths[kind] = path
    return paths


def drop_shared_namespaces() -> None:
    """Undo `make_shared_namespaces`, also in part."""
    for kind in _KINDS:
        path = f"{DIRECTORY}/{kind}"
        if os.path.exists(path):
            try:
                linux.umount2(path, linux.MNT_DETACH)
            finally:
                os.unlink(path)
