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


def _list(directory: Path) -> list[str]:
    return os.listdir(directory) if directory.is_dir() else []
