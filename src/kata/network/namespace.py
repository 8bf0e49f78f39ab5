"""Network namespaces, and the way into them. Source: network_namespaces(7), setns(2)."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from kata.errors import HostError, NotFoundError, StateError, UnsupportedError
from kata.sys import linux

_OWN = "/proc/thread-self/ns/net"
_CLAIM = "\0kata-containers/vm"


def open_namespace(path: str | None) -> int | None:
    """Return a descriptor of the namespace at a path, of a new one for "", None for None.

    Raise NotFoundError for a path that is not there, and UnsupportedError for that of the caller's own, the host's.
    """
    if path is None:
        return None
    if not path:
        return make_namespace()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFoundError(f"the network namespace {path} cannot be opened: {error.strerror}") from error
    if not os.path.samestat(os.fstat(descriptor), os.stat(_OWN)):
        return descriptor
    os.close(descriptor)
    raise UnsupportedError(
        f"the network namespace {path} is the host's, on which no VM can be",
        hint="give the container a network of its own, or none",
    )


def claim_namespace(path: str) -> socket.socket:
    """Take the calling thread's namespace for one VM, as long as the returned socket is open.

    The names of abstract sockets are a namespace's own, so that the kernel says who was first, and forgets the claim of
    a process that ends. Raise StateError where another VM has it: two guests with one address, or without the loopback
    that they were to share, would only seem to run. Source: unix(7).
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        claim.bind(_CLAIM)
    except OSError as error:
        claim.close()
        if error.errno != errno.EADDRINUSE:
            raise HostError(f"the network namespace {path} cannot be claimed: {error.strerror}") from error
        raise StateError(
            f"another VM is connected to the network namespace {path}",
            hint="a container of a VM cannot join the network of another container; put both into one pod",
        ) from error
    return claim


def make_namespace() -> int:
    """Return a descriptor of a new namespace with a loopback interface that is down. Raise HostError."""
    home = open_own_namespace()
    try:
        linux.unshare(linux.CLONE_NEWNET)
        try:
            return open_own_namespace()
        finally:
            linux.setns(home, linux.CLONE_NEWNET)
    except OSError as error:
        raise HostError(f"no network namespace can be made: {error.strerror}") from error
    finally:
        os.close(home)


def open_own_namespace() -> int:
    """Return a descriptor of the calling thread's namespace."""
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def enter_namespace(descriptor: int) -> None:
    """Move the calling thread, and what it starts from now on, into a namespace. Raise HostError."""
    try:
        linux.setns(descriptor, linux.CLONE_NEWNET)
    except OSError as error:
        raise HostError(f"the network namespace cannot be entered: {error.strerror}") from error


@contextmanager
def visit_namespace(descriptor: int) -> Iterator[None]:
    """Have the calling thread in a namespace during the block, in which it must not wait for anything.

    What is opened in the block belongs to that namespace for good. Raise HostError.
    """
    home = open_own_namespace()
    try:
        enter_namespace(descriptor)
        try:
            yield
        finally:
            enter_namespace(home)
    finally:
        os.close(home)
