"""The build cache: directories named by the hash of everything that went into them."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEFAULT_CACHE = "/var/cache/kata-containers"


def default_cache() -> Path:
    return Path(os.environ.get("KATA_CACHE") or DEFAULT_CACHE)


def hash_inputs(inputs: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal, of a JSON value. Key order does not count."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Store:
    """Entries `<root>/<kind>/<key>/`, complete or absent: they are filled aside and moved into place."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def work_dir(self, name: str) -> Path:
        """A directory for large intermediate trees. It may be deleted at any time between builds."""
        path = self.root / "work" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def find(self, kind: str, key: str) -> Path | None:
        path = self.root / kind / key
        return path if path.is_dir() else None

    def fill(self, kind: str, key: str, produce: Callable[[Path], None]) -> Path:
        """Return the entry; when it is absent let `produce` write its files into an empty directory first."""
        with self._lock(kind):
            if found := self.find(kind, key):
                return found
            parent = self.root / kind
            scratch = Path(tempfile.mkdtemp(prefix=".filling-", dir=parent))
            try:
                produce(scratch)
                scratch.chmod(0o755)
                scratch.rename(parent / key)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            return parent / key

    @contextmanager
    def _lock(self, kind: str) -> Iterator[None]:
        # Two builders of the same thing would both use all processors for nothing.
        parent = self.root / kind
        parent.mkdir(parents=True, exist_ok=True)
        with (parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
