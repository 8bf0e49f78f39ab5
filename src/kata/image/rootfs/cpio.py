"""The "newc" cpio archive that the kernel unpacks as its first root.

Wire format (Documentation/driver-api/early-userspace/buffer-format.rst): per file a header of the magic `070701` and 13
fields of 8 hexadecimal digits, the name with a NUL, padding to 4 bytes, the content, padding to 4 bytes. The name
`TRAILER!!!` ends the archive.
"""

import stat
from collections.abc import Iterator

from kata.errors import UsageError
from kata.image.rootfs.tree import Tree

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_NAME_LIMIT = 4096  # PATH_MAX; the kernel skips files with longer names
_SIZE_LIMIT = 1 << 32
_ALIGNMENT = 4


def encode_tree(tree: Tree) -> Iterator[bytes]:
    """Yield the archive in pieces. Raises UsageError for a file that the format cannot hold."""
    for number, path in enumerate(tree, start=1):
        node = tree[path]
        links = 2 if stat.S_ISDIR(node.mode) else 1
        yield _encode_header(path, number, node.mode, links, len(node.data), node.device)
        yield node.data
        yield _pad(len(node.data))
    yield _encode_header(_TRAILER, 0, 0, 1, 0, (0, 0))


def _encode_header(name: str, number: int, mode: int, links: int, size: int, device: tuple[int, int]) -> bytes:
    encoded = name.encode() + b"\0"
    if len(encoded) > _NAME_LIMIT:
        raise UsageError(f"a name of {len(encoded)} bytes does not fit into an initramfs, limit {_NAME_LIMIT}")
    if size >= _SIZE_LIMIT:
        raise UsageError(f"/{name} has {size} bytes, more than an initramfs can hold in one file")
    owner = group = time = checksum = device_major = device_minor = 0
    fields = (
        number, mode, owner, group, links, time, size,
        device_major, device_minor, *device, len(encoded), checksum,
    )  # fmt: skip
    header = _MAGIC + b"".join(b"%08X" % field for field in fields) + encoded
    return header + _pad(len(header))


def _pad(length: int) -> bytes:
    return b"\0" * (-length % _ALIGNMENT)
