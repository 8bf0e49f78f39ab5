"""Waiting for files to come or go by inotify(7): the kernel wakes the waiter, so that it acts in the very moment."""

import ctypes
import os
import select
import struct
import time
from collections.abc import Callable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_EVENT = struct.Struct("iIII")
_INTERESTING = 0x100 | 0x200 | 0x80 | 0x40 | 0x8  # IN_CREATE, IN_DELETE, IN_MOVED_TO, IN_MOVED_FROM, IN_CLOSE_WRITE


def wait_for_file(path: Path, *, timeout: float = 60.0) -> None:
    """Wait until the file is there. Directories above it may come later too."""
    _wait(path, path.exists, f"{path} did not appear", timeout)


def wait_for_removal(path: Path, *, timeout: float = 60.0) -> None:
    _wait(path, lambda: not path.exists(), f"{path} did not vanish", timeout)


def _wait(path: Path, arrived: Callable[[], bool], failure: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    watcher = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    assert watcher >= 0
    try:
        while True:
            # The watch comes first: what happens after the look at the file is then seen.
            place = path.parent
            while _libc.inotify_add_watch(watcher, os.fsencode(place), _INTERESTING) < 0:
                place = place.parent
            if arrived():
                return
            left = deadline - time.monotonic()
            assert left > 0, failure
            if place == path.parent or not place.joinpath(path.relative_to(place).parts[0]).exists():
                select.select([watcher], [], [], left)
                os.read(watcher, 65536)
    finally:
        os.close(watcher)
