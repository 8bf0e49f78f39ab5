"""Where a shim listens, and the files in a bundle that say so.

`socket` is avoided for what is below it: importing it costs as much as half of all the rest of `start`.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

from kata.sys.digest import digest_bytes

SOCKET_ROOT = "/run/containerd/s"
_PREFIX = "unix://"
_CONNECT_TIMEOUT = 0.5


def make_address(daemon: str, namespace: str, sandbox: str, root: str = SOCKET_ROOT) -> str:
    """Return the address of the shim of a sandbox: short, whatever the names are, and the same each time.

    `daemon` is the path of containerd's own socket. Source: containerd's runtime/v2/shim, SocketAddress.
    """
    digest = digest_bytes(os.path.join(daemon, namespace, sandbox).encode()).hex()
    return f"{_PREFIX}{root}/{digest}"


def find_path(address: str) -> str:
    return address.removeprefix(_PREFIX)


def is_answered(address: str) -> bool:
    """Say whether somebody listens there."""
    client = open_socket()
    try:
        client.settimeout(_CONNECT_TIMEOUT)
        client.connect(find_path(address))
    except OSError:
        return False
    finally:
        client.close()
    return True


def open_socket() -> socket:
    """Return an unconnected Unix stream socket."""
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)


def write_word(path: str, word: str) -> None:
    """Write a file of one word in one step, without a line's end, as containerd reads it."""
    fresh = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(word)
    os.rename(fresh, path)
