"""Images for tests, made by hand so that they can be wrong on purpose."""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kata.storage.oci_layout import find_architecture

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"

Entry = tuple[str, bytes, dict[str, Any]]
"""Name, type of tarfile, and the content or what else tarfile knows of a member."""


def file(name: str, content: bytes = b"", **more: Any) -> Entry:
    return name, tarfile.REGTYPE, {"content": content, "mode": 0o644, **more}


def directory(name: str, **more: Any) -> Entry:
    return name, tarfile.DIRTYPE, {"mode": 0o755, **more}


def link(name: str, target: str, **more: Any) -> Entry:
    return name, tarfile.SYMTYPE, {"linkname": target, **more}


def hard_link(name: str, target: str, **more: Any) -> Entry:
    return name, tarfile.LNKTYPE, {"linkname": target, **more}


def make_tar(entries: Sequence[Entry]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, more in entries:
            member = tarfile.TarInfo(name)
            member.type = kind
            content = more.get("content", b"")
            member.size = len(content)
            for key, value in more.items():
                if key != "content":
                    setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def compress(data: bytes, how: str) -> bytes:
    if how == "gzip":
        return gzip.compress(data)
    if how == "zstd":
        return subprocess.run(["zstd", "-q"], input=data, capture_output=True, check=True).stdout
    return data


class LayoutMaker:
    """A layout under construction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests: list[dict[str, Any]] = []

    def add_blob(self, data: bytes, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data), **more}

    def add_document(self, document: dict[str, Any], **more: Any) -> dict[str, Any]:
        return self.add_blob(json.dumps(document).encode(), **more)

    def add_image(
        self, layers: Sequence[Sequence[Entry]], tag: str = "", how: str = "gzip", **config: Any
    ) -> dict[str, Any]:
        """Add an image and return its manifest's descriptor."""
        tars = [make_tar(entries) for entries in layers]
        described = self.add_document(
            {
                "architecture": find_architecture(),
                "os": "linux",
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]},
            }
        )
        blobs = [self.add_blob(compress(tar, how)) for tar in tars]
        descriptor = self.add_document({"schemaVersion": 2, "config": described, "layers": blobs}, mediaType=MANIFEST)
        if tag:
            descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self.manifests.append(descriptor)
        return descriptor

    def finish(self) -> str:
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.manifests}))
        return str(self.path)
