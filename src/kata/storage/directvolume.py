"""Direct-assigned volumes: what a storage driver says of a volume that the guest is to mount from its device.

    <ROOT>/<URL-safe base64 of the volume's path>/mountInfo.json
    <ROOT>/<the same>/<sandbox id>          one empty file for each sandbox that has it

Source: upstream, docs/design/direct-blk-device-assignment.md.
"""

import base64
import os
from contextlib import suppress
from typing import Any, NamedTuple

from kata.errors import ExistsError, HostError, NotFoundError, UnsupportedError, UsageError
from kata.protocol.jsonobject import parse_object
from kata.sys.file import read_text, replace_file
from kata.sys.tree import remove_tree

ROOT = "/run/kata-containers/shared/direct-volumes"
_MOUNT_INFO = "mountInfo.json"
_TYPES = ("", "block", "rawblock", "directvol")
_LONGEST_NAME = 255


class MountInfo(NamedTuple):
    """A volume's device, a block device or a file, and how it is to be mounted."""

    device: str
    fstype: str
    options: tuple[str, ...] = ()
    metadata: dict[str, str] = {}  # noqa: RUF012 - nobody changes it


def find_volume(path: str, root: str = ROOT) -> str:
    """Return the directory that is about the volume at `path`. Raise UsageError for a path that has none."""
    if not path.startswith("/"):
        raise UsageError(f"the volume {path!r} is no absolute path")
    name = encode_path(path)
    if len(name) > _LONGEST_NAME:
        raise UsageError(f"the volume {path} has too long a path")
    return f"{root}/{name}"


def encode_path(path: str) -> str:
    """Return a path as the name of a file."""
    return base64.urlsafe_b64encode(path.encode(errors="surrogateescape")).decode()


def parse_mount_info(text: str, volume: str) -> MountInfo:
    """Read a mountInfo.json. Raise UsageError for what is malformed, UnsupportedError for other kinds of volumes."""
    document = parse_object(text, f"the mount information of volume {volume}")
    kind = _get_text(document, "volume-type", volume)
    if kind not in _TYPES:
        raise UnsupportedError(
            f"volume {volume} is of type {kind!r}", hint="a volume on a block device is of type block"
        )
    device, fstype = _get_text(document, "device", volume), _get_text(document, "fstype", volume)
    if not device.startswith("/") or not fstype:
        raise UsageError(f"the mount information of volume {volume} lacks an absolute `device` or an `fstype`")
    options, metadata = document.get("options") or [], document.get("metadata") or {}
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise UsageError(f"the `options` of volume {volume} are no list of texts")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UsageError(f"the `metadata` of volume {volume} is no object of texts")
    return MountInfo(device, fstype, tuple(options), metadata)


def _get_text(document: dict[str, Any], key: str, volume: str) -> str:
    value = document.get(key) or ""
    if not isinstance(value, str):
        raise UsageError(f"the `{key}` of volume {volume} is no text")
    return value


def add_volume(path: str, text: str, root: str = ROOT) -> None:
    """Say how the volume at `path` is to be mounted. Raise ExistsError where that was said, UsageError."""
    directory = find_volume(path, root)
    parse_mount_info(text, path)
    if os.path.exists(f"{directory}/{_MOUNT_INFO}"):
        raise ExistsError(f"volume {path} is direct-assigned already", hint="remove it first")
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        replace_file(f"{directory}/{_MOUNT_INFO}", text)
    except OSError as error:
        raise HostError(f"volume {path} cannot be direct-assigned: {directory}: {error.strerror}") from error


def remove_volume(path: str, root: str = ROOT) -> None:
    """Forget a volume. One that is none is no error, as upstream has it."""
    remove_tree(find_volume(path, root))


def is_direct_volume(path: str, root: str = ROOT) -> bool:
    """Say whether somebody has said how to mount the volume at a path."""
    if not path.startswith("/") or len(encode_path(path)) > _LONGEST_NAME:
        return False
    return os.path.exists(f"{find_volume(path, root)}/{_MOUNT_INFO}")


def read_mount_info(path: str, root: str = ROOT) -> MountInfo | None:
    """Return how a volume is to be mounted, None for a path that is no direct-assigned volume."""
    if not is_direct_volume(path, root):
        return None
    text = read_text(f"{find_volume(path, root)}/{_MOUNT_INFO}")
    return parse_mount_info(text, path) if text else None


def find_note(path: str, sandbox: str, root: str = ROOT) -> str:
    """Return the file that says that a sandbox has the volume."""
    return f"{find_volume(path, root)}/{sandbox}"


def note_sandbox(path: str, sandbox: str, root: str = ROOT) -> None:
    """Say that a sandbox has the volume."""
    os.close(os.open(find_note(path, sandbox, root), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def forget_sandbox(path: str, sandbox: str, root: str = ROOT) -> None:
    """Say that a sandbox has the volume no more."""
    with suppress(FileNotFoundError):
        os.unlink(find_note(path, sandbox, root))


def list_sandboxes(path: str, root: str = ROOT) -> list[str]:
    """Return the sandboxes that have a volume. Raise NotFoundError for a path that is no direct-assigned volume."""
    directory = find_volume(path, root)
    names: list[str] = []
    with suppress(FileNotFoundError):
        names = os.listdir(directory)
    if _MOUNT_INFO not in names:
        raise NotFoundError(f"{path} is no direct-assigned volume", hint="see kata-runtime direct-volume add")
    return sorted(name for name in names if name != _MOUNT_INFO)
