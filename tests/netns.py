"""A network namespace of a test's own, and ip(8) as the judge of what is in it."""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def enter_network_namespace() -> Iterator[None]:
    """Put the calling thread, and the children it starts, into an empty network namespace until the block ends."""
    if os.geteuid() != 0:
        pytest.skip("NOT ROOT: a network namespace cannot be made, and nothing of rtnetlink is tested")
    if shutil.which("ip") is None:
        pytest.skip("NO iproute2: there is no judge for what rtnetlink did")
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_NEWNET))
        try:
            yield
        finally:
            _check(_libc.setns(home, _CLONE_NEWNET))
    finally:
        os.close(home)


def run_ip(*words: str) -> None:
    """Run ip(8) and fail the test with what it says."""
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def read_ip(*words: str) -> list[dict[str, Any]]:
    """Return what `ip -j -d …` prints."""
    done = subprocess.run(["ip", "-j", "-d", *words], check=True, capture_output=True, text=True, timeout=10)
    # iproute2 prints nothing at all where there is nothing to list, and {} where a filter took everything.
    return [row for row in json.loads(done.stdout or "[]") if row]


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
