"""A bundle: a directory with config.json and, usually, the root file system."""

from __future__ import annotations

import os

from kata.errors import UsageError
from kata.protocol.oci.spec import parse_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Bundle:
    """A checked bundle. `path` is absolute, `spec` the document as the engine wrote it."""

    __slots__ = ("path", "spec")

    def __init__(self, path: str, spec: dict[str, Any]) -> None:
        self.path = path
        self.spec = spec

    @property
    def terminal(self) -> bool:
        return self.spec["process"].get("terminal") is True


def open_bundle(path: str) -> Bundle:
    """Read and check a bundle, empty for the current directory. Raise UsageError on one that cannot be run."""
    path = os.path.abspath(path or ".")
    if not os.path.isdir(path):
        raise UsageError(f"chdir {path}: no such file or directory")
    file = f"{path}/config.json"
    try:
        with open(file, "rb") as stream:
            text = stream.read()
    except FileNotFoundError:
        raise UsageError("JSON specification file config.json not found", hint=f"bundle {path}") from None
    spec = parse_spec(text, file)
    rootfs = os.path.join(path, spec["root"]["path"])
    if not os.path.exists(rootfs):
        raise UsageError(f"invalid rootfs: stat {rootfs}: no such file or directory", hint=f"{file}: root.path")
    return Bundle(path, spec)
