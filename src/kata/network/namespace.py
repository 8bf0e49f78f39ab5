"""Network namespaces, and the way into them. Source: network_namespaces(7), setns(2)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from kata.errors import HostError, NotFoundError
from kata.sys import linux

_OWN = "/proc/thread-self/ns/net"


def open_namespace(path: str | None) -> int | None:
    """Return a descriptor of the namespace at a path, of a new one for "", None for None and for the caller's own.

    Raise NotFoundError for a path that is not there.
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
    return None


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
