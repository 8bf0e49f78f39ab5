"""Runs part of a test in a process with mounts of its own, so that nothing it mounts can stay."""

import os
import traceback
from collections.abc import Callable

import pytest

from kata.sys.namespace import enter_private_mount_namespace

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes mounts in a namespace of its own")


def run_with_own_mounts(body: Callable[[], None]) -> None:
    """Call `body` in a child in a private mount namespace; fail with its traceback if it fails."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            enter_private_mount_namespace()
            body()
            status = 0
        except BaseException:  # noqa: BLE001 - the parent raises it
            os.write(writer, traceback.format_exc().encode()[-60000:])
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        report = stream.read().decode()
    _, status = os.waitpid(child, 0)
    if status:
        pytest.fail(f"in the namespace:\n{report}")
