import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.cli.runtime import Runtime


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path)
    yield runtime
    for record in sorted((runtime.root / "containers").glob("*.json")):
        runtime.run("delete", "--force", record.stem)
    left = [name for place in ("sandboxes", "containers", "bundles") for name in _list(runtime.root / place)]
    assert not left, f"left behind: {left}"


_PR_SET_CHILD_SUBREAPER = 36


def _list(directory: Path) -> list[str]:
    return os.listdir(directory) if directory.is_dir() else []


@pytest.fixture
def subreaper() -> Iterator[None]:
    """Adopt orphans, as conmon does."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
