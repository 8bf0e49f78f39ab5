"""OCI image layouts: finding an image in one, and turning it into a root file system.

Every blob is checked against its digest before it is used, and every layer against its diff id after it is unpacked.
Source: OCI image specification 1.1, image-layout.md, image-index.md, manifest.md, config.md, layer.md.
"""

import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal, cast

from kata.errors import HostError, NotFoundError, ProtocolError, UnsupportedError, UsageError
from kata.protocol.jsonobject import parse_object
from kata.storage.layer import unpack_layer

_REF_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_LARGEST_DOCUMENT = 4 << 20
_CHUNK = 1 << 20
_DEEPEST_INDEX = 4
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x"}
_ZSTD_TIMEOUT = 30

Compression = Literal["none", "gzip", "zstd"]


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says of how it wants to be run."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    working_directory: str = "/"
    user: str = ""


class Layout:
    """An image layout in a directory."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        document = self._read_json(f"{directory}/oci-layout")
        version = str(document.get("imageLayoutVersion", ""))
        if not version.startswith("1."):
            raise UnsupportedError(f"{directory} is an image layout of version {version!r}, not 1.x")

    def _read_json(self, path: str) -> dict[str, Any]:
        try:
            with open(path, "rb") as file:
                text = file.read(_LARGEST_DOCUMENT + 1)
        except OSError as error:
            raise NotFoundError(f"{self.directory} is no image layout: {path}: {error.strerror}") from error
        return _parse_object(text, path)

    def open_blob(self, descriptor: dict[str, Any]) -> IO[bytes]:
        """Open a blob after comparing size and digest. Raise NotFoundError or ProtocolError."""
        algorithm, _, digest = str(descriptor.get("digest", "")).partition(":")
        if algorithm != "sha256" or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise UnsupportedError(f"{self.directory}: the digest {descriptor.get('digest')!r} is not of sha256")
        path = f"{self.directory}/blobs/sha256/{digest}"
        try:
            blob = open(path, "rb")  # noqa: SIM115 - the caller closes it
        except OSError as error:
            raise NotFoundError(f"{self.directory} lacks the blob sha256:{digest}: {error.strerror}") from error
        try:
            if hashlib.file_digest(blob, "sha256").hexdigest() != digest:
                raise ProtocolError(f"{path} does not have the digest that is its name", hint="copy the image again")
            size = descriptor.get("size")
            if isinstance(size, int) and size != os.fstat(blob.fileno()).st_size:
                raise ProtocolError(f"{path} is not of {size} bytes, as its descriptor says")
            blob.seek(0)
        except BaseException:
            blob.close()
            raise
        return blob

    def read_document(self, descriptor: dict[str, Any]) -> dict[str, Any]:
        with self.open_blob(descriptor) as blob:
            return _parse_object(blob.read(_LARGEST_DOCUMENT + 1), str(descriptor["digest"]))

    def find_manifest(self, tag: str) -> dict[str, Any]:
        """Return the manifest of the image for this machine. An empty tag means the only image there is.

        Raise NotFoundError that lists what there is, or UsageError where a tag is needed.
        """
        descriptors = _list_objects(self._read_json(f"{self.directory}/index.json"), "manifests")
        tags = sorted({name for descriptor in descriptors if (name := _read_tag(descriptor))})
        if tag:
            descriptors = [descriptor for descriptor in descriptors if _matches_tag(descriptor, tag)]
        if not descriptors:
            raise NotFoundError(f"{self.directory} has no image {tag!r}", hint=f"it has {', '.join(tags) or 'none'}")
        if not tag and len(tags) > 1:
            raise UsageError(f"{self.directory} has several images", hint=f"append one of :{', :'.join(tags)}")
        return self._choose_platform(descriptors, _DEEPEST_INDEX)

    def _choose_platform(self, descriptors: list[dict[str, Any]], depth: int) -> dict[str, Any]:
        wanted = find_architecture()
        for descriptor in descriptors:
            platform = descriptor.get("platform") or {}
            if platform.get("architecture", wanted) != wanted or platform.get("os", "linux") != "linux":
                continue
            document = self.read_document(descriptor)
            if descriptor.get("mediaType") not in _INDEXES and "manifests" not in document:
                return document
            if depth:
                return self._choose_platform(_list_objects(document, "manifests"), depth - 1)
        raise NotFoundError(f"{self.directory} has no image for linux/{wanted}")


def find_architecture() -> str:
    """Return this machine's architecture as Go, and so an image, names it."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


def _parse_object(text: bytes, where: str) -> dict[str, Any]:
    if len(text) > _LARGEST_DOCUMENT:
        raise ProtocolError(f"{where} is larger than {_LARGEST_DOCUMENT} bytes")
    return parse_object(text, where, error=ProtocolError)


def _list_objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = document.get(key)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ProtocolError(f"an image's document has no array {key}")
    return found


def _read_tag(descriptor: dict[str, Any]) -> str:
    return str((descriptor.get("annotations") or {}).get(_REF_NAME, ""))


def _matches_tag(descriptor: dict[str, Any], tag: str) -> bool:
    annotations = descriptor.get("annotations") or {}
    return tag in (annotations.get(_REF_NAME), annotations.get(_FULL_NAME))


def unpack_image(place: str, rootfs: str, scratch: str) -> ImageConfig:
    """Unpack the image at `place` into the new directory `rootfs` and return its configuration.

    `place` is DIR[:TAG], or a tar archive of a layout, which is unpacked below `scratch` first. Raise NotFoundError,
    ProtocolError on what does not match its digest or is malformed, UnsupportedError, HostError. The caller removes
    what a failure leaves.
    """
    path, tag = split_place(place)
    if os.path.isfile(path):
        unpack_archive(path, scratch)
        path = scratch
    layout = Layout(path)
    manifest = layout.find_manifest(tag)
    config = layout.read_document(_read_descriptor(manifest, "config"))
    layers = _list_objects(manifest, "layers")
    diff_ids = (config.get("rootfs") or {}).get("diff_ids")
    if not isinstance(diff_ids, list) or len(diff_ids) != len(layers):
        raise ProtocolError(f"the image at {place} does not name a diff id for each of its {len(layers)} layers")
    os.mkdir(rootfs, 0o755)
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for descriptor, diff_id in zip(layers, diff_ids, strict=True):
            _unpack_blob(layout, descriptor, str(diff_id), root)
    finally:
        os.close(root)
    return _read_config(config)


def split_place(place: str) -> tuple[str, str]:
    """Split DIR[:TAG]. A path that exists as it is has no tag."""
    if os.path.exists(place):
        return place, ""
    path, colon, tag = place.rpartition(":")
    if colon and os.path.exists(path):
        return path, tag
    raise NotFoundError(f"{place} does not exist", hint="an image layout's directory or a tar archive of one")


def unpack_archive(path: str, directory: str) -> None:
    """Unpack a tar archive of a layout: its two documents and its blobs, nothing else."""
    os.makedirs(f"{directory}/blobs/sha256", mode=0o700)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                folder, _, blob = name.rpartition("/")
                known = name in ("oci-layout", "index.json") or (folder == "blobs/sha256" and blob.isalnum())
                stream = archive.extractfile(member) if known and member.isreg() else None
                if stream is not None:
                    with open(f"{directory}/{name}", "wb") as file:
                        shutil.copyfileobj(stream, file, _CHUNK)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise ProtocolError(f"{path} is no tar archive of an image layout: {error}") from error


def _read_descriptor(manifest: dict[str, Any], key: str) -> dict[str, Any]:
    descriptor = manifest.get(key)
    if not isinstance(descriptor, dict):
        raise ProtocolError(f"an image's manifest has no object {key}")
    return descriptor


def _unpack_blob(layout: Layout, descriptor: dict[str, Any], diff_id: str, root: int) -> None:
    with layout.open_blob(descriptor) as blob, _open_uncompressed(blob) as stream:
        hashing = HashingReader(stream)
        unpack_layer(cast("IO[bytes]", hashing), root)
        hashing.drain()
    if f"sha256:{hashing.digest}" != diff_id:
        raise ProtocolError(f"the layer {descriptor.get('digest')} does not unpack to {diff_id}")


class HashingReader:
    """Reads from a stream and hashes all that passes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        return data

    def drain(self) -> None:
        """Read the padding that a tar reader leaves."""
        while self.read(_CHUNK):
            pass

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def detect_compression(blob: IO[bytes]) -> Compression:
    """Tell by the first bytes: media types are often wrong. The position is kept."""
    at = blob.tell()
    magic = blob.read(4)
    blob.seek(at)
    if magic[:2] == b"\x1f\x8b":
        return "gzip"
    return "zstd" if magic == b"\x28\xb5\x2f\xfd" else "none"


@contextmanager
def _open_uncompressed(blob: IO[bytes]) -> Iterator[IO[bytes]]:
    compression = detect_compression(blob)
    if compression == "gzip":
        try:
            with gzip.open(blob) as stream:
                yield cast("IO[bytes]", stream)
        except (gzip.BadGzipFile, EOFError) as error:
            raise ProtocolError(f"a layer is not gzip to its end: {error}") from error
    elif compression == "zstd":
        with _run_zstd(blob) as stream:
            yield stream
    else:
        yield blob


@contextmanager
def _run_zstd(blob: IO[bytes]) -> Iterator[IO[bytes]]:
    tool = shutil.which("zstd")
    if tool is None:
        raise UnsupportedError(
            "a layer is compressed with zstd, and there is no zstd on the PATH", hint="apt install zstd"
        )
    os.lseek(blob.fileno(), 0, os.SEEK_SET)  # the child shares the descriptor, not Python's buffer
    child = subprocess.Popen([tool, "-dcq"], stdin=blob, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    try:
        yield child.stdout
        if child.wait(_ZSTD_TIMEOUT):
            raise ProtocolError("a layer is not zstd to its end")
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{tool} did not end within {_ZSTD_TIMEOUT} s of its output") from error
    finally:
        child.kill()
        child.stdout.close()
        child.wait()


def _read_config(document: dict[str, Any]) -> ImageConfig:
    config = document.get("config") or {}

    def list_texts(key: str) -> tuple[str, ...]:
        value = config.get(key) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ProtocolError(f"an image's config.{key} is not an array of strings")
        return tuple(value)

    return ImageConfig(
        entrypoint=list_texts("Entrypoint"),
        command=list_texts("Cmd"),
        environment=list_texts("Env"),
        working_directory=str(config.get("WorkingDir") or "/"),
        user=str(config.get("User") or ""),
    )
