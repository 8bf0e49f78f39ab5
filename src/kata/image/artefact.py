"""What a build gives: a file for the guest, and beside it `<name>.json` that says what it is made of."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kata.errors import HostError, NotFoundError

DEFAULT_OUTPUT = Path("/usr/local/share/kata-containers")


@dataclass(frozen=True, slots=True)
class Artefact:
    """`size` is in bytes, `sha256` in hexadecimal, `inputs` whatever decides the content."""

    kind: str
    version: str
    sha256: str
    size: int
    inputs: Mapping[str, Any]


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sidecar_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def publish(source: Path, target: Path, *, kind: str, version: str, inputs: Mapping[str, Any]) -> Artefact:
    """Put a copy of `source` at `target`, readable by all, with its sidecar.

    A sandbox that starts meanwhile sees the old file or the new one, never half of one.
    """
    artefact = Artefact(kind, version, hash_file(source), source.stat().st_size, inputs)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace(target, source)
        scratch = target.with_name(f".{target.name}.json.{os.getpid()}")
        scratch.write_text(json.dumps(asdict(artefact), indent=1, sort_keys=True) + "\n")
        scratch.replace(sidecar_of(target))
    except OSError as error:
        raise HostError(f"cannot write {target}: {error.strerror}", hint="name another --output") from error
    return artefact


def _replace(target: Path, source: Path) -> None:
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(source, scratch)
        scratch.chmod(0o644)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def load_sidecar(path: Path) -> Artefact:
    """Read the sidecar of the artefact at `path`. Raises NotFoundError, or HostError when it is no sidecar of ours."""
    sidecar = sidecar_of(path)
    try:
        fields = json.loads(sidecar.read_text())
        return Artefact(**fields)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} has no sidecar {sidecar.name}", hint="build it with kata-image") from error
    except (ValueError, TypeError) as error:
        raise HostError(f"{sidecar} is not the sidecar of a guest artefact: {error}") from error


def find_artefacts(directory: Path) -> dict[Path, Artefact]:
    """All artefacts in `directory` that have a sidecar, by path."""
    sidecars = sorted(directory.glob("*.json"))
    targets = [sidecar.with_name(sidecar.name.removesuffix(".json")) for sidecar in sidecars]
    return {target: load_sidecar(target) for target in targets}


def verify(path: Path, artefact: Artefact) -> None:
    """Raises HostError when the file is not what its sidecar says."""
    if not path.exists():
        raise NotFoundError(f"{path} is gone; only its sidecar is left", hint="build it again with kata-image")
    if (found := hash_file(path)) != artefact.sha256:
        raise HostError(
            f"{path} has the hash {found}, its sidecar says {artefact.sha256}", hint="build it again with kata-image"
        )
