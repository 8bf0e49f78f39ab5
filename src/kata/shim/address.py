"""Where a shim listens, and the files in a bundle that say so."""

from __future__ import annotations

import hashlib
import os
import socket

SOCKET_ROOT = "/run/containerd/s"
_PREFIX = "unix://"
_CONNECT_TIMEOUT = 0.5


def make_address(daemon: str, namespace: str, sandbox: str, root: str = SOCKET_ROOT) -> str:
    """Return the address of the shim of a sandbox: short, whatever the names are, and the same each time.

    `daemon` is the path of containerd's own socket. Source: containerd's runtime/v2/shim, SocketAddress.
    """
    digest = hashlib.sha256(os.path.join(daemon, namespace, sandbox).encode()).hexdigest()
    return f"{_PREFIX}{root}/{digest}"


def find_path(address: str) -> str:
    return address.removeprefix(_PREFIX)


def is_answered(address: str) -> bool:
    """Say whether somebody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
        client.settimeout(_CONNECT_TIMEOUT)
        try:
            client.connect(find_path(address))
        except OSError:
            return False
        return True


def write_word(path: str, word: str) -> None:
    """Write a file of one word in one step, without a line's end, as containerd reads it."""
    fresh = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(word)
    os.rename(fresh, path)
