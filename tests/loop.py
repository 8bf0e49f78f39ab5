"""Block devices of the host to test with."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_SIZE = 8 << 20


@contextmanager
def attach_loop(backing: Path) -> Iterator[str]:
    """Have a block device on a new file `backing`, which begins with a line of the host's. Yield its node."""
    backing.write_bytes(b"of the host\n".ljust(_SIZE, b"\0"))
    words = ["losetup", "--find", "--show", str(backing)]
    made = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
    if made.returncode:
        pytest.skip(f"this host makes no loop devices: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=30)
