"""Unix sockets at paths longer than `sun_path` (108 bytes, unix(7)), bound before anyone needs them."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def shorten_path(path: str) -> Iterator[str]:
    """Another name of the path, short enough for `sun_path` however deep the folder is."""
    folder, name = os.path.split(path)
    descriptor = os.open(folder or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def listen_unix(path: str, *, backlog: int = 16) -> socket.socket:
    """A listening stream socket at a path, for its owner only. What was left at the path is replaced."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with shorten_path(path) as short:
            with suppress(FileNotFoundError):
                os.unlink(short)
            server.bind(short)
            # Between bind and listen nobody can connect, so the mode is right before the door opens.
            os.chmod(short, 0o600)
        server.listen(backlog)
    except BaseException:
        server.close()
        raise
    return server


def open_socket_node(path: str) -> int:
    """An O_PATH descriptor of the socket at a path that somebody else may write to: a link is not followed.

    `/proc/self/fd/N` is that socket then, whatever comes in its place. Raise OSError for anything else.
    """
    with shorten_path(path) as short:
        node = os.open(short, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISSOCK(os.fstat(node).st_mode):
        os.close(node)
        raise ConnectionRefusedError(f"{path} is no socket")
    return node


def connect_unix(path: str) -> socket.socket:
    """A blocking stream socket connected to a path."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with shorten_path(path) as short:
            client.connect(short)
    except BaseException:
        client.close()
        raise
    return client
