"""Python modules as the guest has them: compiled, in the place of the source."""

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kata.errors import UnsupportedError
from kata.image.rootfs.closure import Source
from kata.image.store import Store, hash_inputs
from kata.image.tool import run_tool

_COMPILER = Path(__file__).with_name("compile_modules.py")
_TIMEOUT = 300
KEEP_ALL = 0
DROP_DOCSTRINGS = 2


@dataclass(frozen=True, slots=True)
class Library:
    """A set of modules below one directory. `directory` is relative to the guest's root."""

    directory: str
    sources: Mapping[str, Source]

    def path_of(self, name: str, suffix: str) -> str:
        stem = f"{self.directory}/{name.replace('.', '/')}"
        return f"{stem}/__init__{suffix}" if self.sources[name].is_package else stem + suffix


def check_interpreter(guest: tuple[int, int]) -> None:
    """Raises UnsupportedError unless the host's Python, which compiles for the guest, is of the guest's version."""
    host = sys.version_info[:2]
    if guest != host:
        raise UnsupportedError(
            f"the guest's Python is {guest[0]}.{guest[1]}, but this host compiles for {host[0]}.{host[1]}",
            hint="build on the release that the image is made of",
        )


def compile_library(store: Store, library: Library, names: set[str], level: int) -> dict[str, bytes]:
    """Return the compiled modules `names` by their path in the guest, from the cache if they are there.

    `level` is KEEP_ALL or DROP_DOCSTRINGS; the latter drops assertions as well.
    """
    ordered = sorted(names)
    shown = {name: "/" + library.path_of(name, ".py") for name in ordered}
    key = hash_inputs(
        {
            "interpreter": sys.version,
            "level": level,
            "modules": [[shown[name], hashlib.sha256(library.sources[name].text).hexdigest()] for name in ordered],
        }
    )

    def produce(directory: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="kata-image-") as scratch:
            requests = []
            for name in ordered:
                text = Path(scratch, name)
                text.write_bytes(library.sources[name].text)
                requests.append((name, shown[name], level, str(text)))
            run_tool(
                [sys.executable, "-S", "-s", "-P", "-B", str(_COMPILER), str(directory)],
                purpose="compile the guest's Python modules",
                timeout=_TIMEOUT,
                env={"PYTHONHASHSEED": "0"},
                stdin=json.dumps(requests).encode(),
            )

    directory = store.fill("bytecode", key, produce)
    return {library.path_of(name, ".pyc"): (directory / f"{name}.pyc").read_bytes() for name in ordered}
