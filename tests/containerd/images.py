"""An image of busybox as an OCI layout in a tar, which `ctr images import` takes: no registry is asked."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from podman.images import build_busybox

IMAGE = "localhost/kata-test/busybox:latest"


def write_image(path: Path, name: str = IMAGE, command: tuple[str, ...] = ("/bin/sh",)) -> Path:
    """Write the archive of an image that runs `command`, and return its path."""
    layer = build_busybox().read_bytes()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": list(command)},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": _describe("application/vnd.oci.image.config.v1+json", config),
            "layers": [_describe("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    ).encode()
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest"}
    described = {**_describe("application/vnd.oci.image.manifest.v1+json", manifest), "annotations": names}
    with tarfile.open(path, "w") as archive:
        _add(archive, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        _add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": [described]}).encode())
        for blob in (layer, config, manifest):
            _add(archive, f"blobs/sha256/{_digest(blob).partition(':')[2]}", blob)
    return path


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _describe(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data)}


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))
