"""Namespaces of the calling process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from kata.sys import linux
from kata.sys.mount import set_propagation


def enter_private_mount_namespace() -> None:
    """Give this process mounts of its own, which vanish with it. Call before the first thread starts.

    The copy follows the host's (slave), so that a volume mounted on the host later is still seen, and nothing that is
    mounted here gets out.
    """
    linux.unshare(linux.CLONE_NEWNS)
    set_propagation("/", linux.MS_SLAVE, recursive=True)


@contextmanager
def visit_network_namespace(descriptor: int) -> Iterator[None]:
    """Run a block of synchronous code of the calling thread in another network namespace, then come back."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.setns(descriptor, linux.CLONE_NEWNET)
        try:
            yield
        finally:
            linux.setns(home, linux.CLONE_NEWNET)
    finally:
        os.close(home)
