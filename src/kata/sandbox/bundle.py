"""OCI bundles as the sandbox reads them."""

import os
from typing import Any, NamedTuple

from kata.errors import UsageError
from kata.protocol.jsonobject import parse_object


class Bundle(NamedTuple):
    """An OCI bundle that was read: `path` is absolute."""

    path: str
    spec: dict[str, Any]

    @property
    def rootfs(self) -> str:
        return os.path.join(self.path, self.spec["root"]["path"])


def read_bundle(path: str) -> Bundle:
    """Raise UsageError that names the file and what is wrong with it."""
    path = os.path.abspath(path)
    name = f"{path}/config.json"
    try:
        with open(name, encoding="utf-8") as file:
            spec = parse_object(file.read(), name)
    except OSError as error:
        raise UsageError(
            f"{name} cannot be read: {error.strerror}", hint="a bundle holds config.json and a root"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8: {error}") from error
    if not isinstance(spec.get("root"), dict):
        raise UsageError(f"{name} has no object `root`")
    if not isinstance(spec["root"].get("path"), str):
        raise UsageError(f"{name} has no text `root.path`")
    return Bundle(path, spec)
