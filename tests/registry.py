"""A registry of images on loopback, as far as clients pull from it: no other registry is asked in tests.

Source: the pull half of https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

import hashlib
import http.server
import json
import re
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)")


@dataclass(frozen=True, slots=True)
class Image:
    """An image to serve: layers are uncompressed tar files, lowest first; `config` is the OCI config's `config`."""

    layers: Sequence[Path]
    config: dict[str, Any] = field(default_factory=dict)


class Registry:
    """Serves images for as long as the block is entered, in the network namespace of the thread that enters it.

    A client may take it for any registry's mirror: the host of a name is not looked at, so two hosts have the same
    repositories here.
    """

    def __init__(self) -> None:
        self._files: dict[str, Path] = {}
        self._manifests: dict[str, bytes] = {}
        self._configs: dict[str, bytes] = {}
        self._tags: dict[tuple[str, str], str] = {}
        self._server: http.server.ThreadingHTTPServer | None = None

    def add(self, name: str, tag: str, image: Image) -> str:
        """Have `image` under the repository `name` and return the digest of its manifest."""
        layers = [(_digest_file(path), path) for path in image.layers]
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": image.config,
                "rootfs": {"type": "layers", "diff_ids": [digest for digest, _ in layers]},
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": {"mediaType": _CONFIG, "digest": _digest(config), "size": len(config)},
                "layers": [
                    {"mediaType": _LAYER, "digest": digest, "size": path.stat().st_size} for digest, path in layers
                ],
            }
        ).encode()
        self._files.update(layers)
        self._configs[_digest(config)] = config
        self._manifests[_digest(manifest)] = manifest
        self._tags[name, tag] = _digest(manifest)
        return _digest(manifest)

    @property
    def url(self) -> str:
        assert self._server is not None, "the registry is not entered"
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        handler = type("_BoundHandler", (_Handler,), {"registry": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, name="registry", daemon=True).start()
        return self

    def __exit__(self, *_failure: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def find_manifest(self, name: str, reference: str) -> bytes | None:
        """Return the manifest of a tag of `name`, or of a digest."""
        return self._manifests.get(self._tags.get((name, reference), reference))

    def find_blob(self, digest: str) -> Path | bytes | None:
        return self._files.get(digest) or self._configs.get(digest)


class _Handler(http.server.BaseHTTPRequestHandler):
    registry: ClassVar[Registry]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *_arguments: object) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing: what was asked is in the client's log."""

    def _answer(self, *, with_body: bool) -> None:
        found: Path | bytes | None = None
        kind = "application/octet-stream"
        if asked := _PATH.fullmatch(self.path.partition("?")[0]):
            if asked["kind"] == "manifests":
                kind = _MANIFEST
                found = self.registry.find_manifest(asked["name"], asked["reference"])
            else:
                found = self.registry.find_blob(asked["reference"])
        elif self.path.rstrip("/") == "/v2":
            found = b"{}"
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Length", str(_measure(found)))
        if found is not None:
            self.send_header("Content-Type", kind)
        if isinstance(found, bytes):
            self.send_header("Docker-Content-Digest", _digest(found))
        self.end_headers()
        if with_body and isinstance(found, bytes):
            self.wfile.write(found)
        elif with_body and isinstance(found, Path):
            with found.open("rb") as file:
                shutil.copyfileobj(file, self.wfile)


def _measure(content: Path | bytes | None) -> int:
    if isinstance(content, Path):
        return content.stat().st_size
    return len(content or b"")


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
