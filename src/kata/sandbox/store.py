"""What the disk knows of sandboxes and containers: where things are, who owns them, what their last state was.

<root>/sandboxes/<sid>/   one sandbox: sockets, logs, ledger, timeline, and `lock`, which its daemon holds
<root>/containers/<cid>.json

Of containerd, which has the same id in several namespaces, <sid> and <cid> are `id+namespace`: neither may hold a plus.
"""

import contextlib
import fcntl
import json
import os
import struct
import time
from typing import Any, NamedTuple

from kata.errors import NotFoundError, StateError
from kata.sys.file import read_text, replace_file

DEFAULT_ROOT = "/run/kata"
SHARE_BASE = "/run/kata-containers/shared/sandboxes"

_LOCK = struct.Struct("hhqqi4x")
"""`struct flock` of fcntl(2) on 64-bit Linux: type, whence, start, length, pid."""

_MAKING_TIME = 60.0


class ContainerRecord(NamedTuple):
    """A container as `state` and `list` show it. `created` is RFC 3339; `pid` is the host's stand-in."""

    id: str
    sandbox: str
    bundle: str
    pid: int
    status: str
    created: str
    rootfs: str = ""
    annotations: dict[str, str] | None = None
    exit_status: int | None = None
    namespace: str = ""

    @property
    def key(self) -> str:
        """What the record's file is called by."""
        return make_key(self.id, self.namespace)


def make_key(name: str, namespace: str) -> str:
    """Return what a sandbox or a container is called on the disk; the command line has no namespaces."""
    return f"{name}+{namespace}" if namespace else name


def find_sandbox_dir(root: str, sandbox: str) -> str:
    return f"{root}/sandboxes/{sandbox}"


def find_container_path(root: str, container: str) -> str:
    return f"{root}/containers/{container}.json"


def write_container(root: str, record: ContainerRecord) -> None:
    os.makedirs(f"{root}/containers", mode=0o700, exist_ok=True)
    replace_file(find_container_path(root, record.key), json.dumps(record._asdict()))


def read_container(root: str, container: str) -> ContainerRecord:
    """Raise NotFoundError where no such container is known under this root."""
    text = read_text(find_container_path(root, container))
    if not text:
        raise NotFoundError(f"container {container} does not exist")
    return ContainerRecord(**json.loads(text))


def remove_container(root: str, container: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(find_container_path(root, container))


def list_containers(root: str) -> list[ContainerRecord]:
    """Return all records, by id. One that vanishes meanwhile is left out."""
    try:
        names = sorted(os.listdir(f"{root}/containers"))
    except FileNotFoundError:
        return []
    records = []
    for name in names:
        if not name.endswith(".json"):
            continue
        try:
            records.append(read_container(root, name.removesuffix(".json")))
        except NotFoundError:
            continue
    return records


def list_sandboxes(root: str) -> list[str]:
    try:
        return sorted(os.listdir(f"{root}/sandboxes"))
    except FileNotFoundError:
        return []


def lock_sandbox(directory: str) -> int:
    """Take the daemon's lock and return its descriptor; the kernel drops it when the daemon ends, however it ends.

    Raise StateError when another process has it.
    """
    descriptor = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except BlockingIOError as error:
        os.close(descriptor)
        raise StateError(f"{directory} is in use by a living daemon") from error
    return descriptor


def is_served(directory: str) -> bool:
    """Say whether a daemon holds the sandbox's lock.

    The lock is only asked about: taking it to see would make a daemon fail that takes it in the same moment.
    """
    try:
        descriptor = os.open(f"{directory}/lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    finally:
        os.close(descriptor)
    return bool(_LOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def is_being_made(directory: str) -> bool:
    """Say whether the directory is so new that its daemon may just not have come to take the lock."""
    if os.path.exists(f"{directory}/lock"):
        return False
    try:
        return time.time() - os.stat(directory).st_mtime < _MAKING_TIME
    except FileNotFoundError:
        return False


def describe_state(record: ContainerRecord, status: str) -> dict[str, Any]:
    """Return the OCI state document. Source: OCI runtime specification, runtime.md#state."""
    state: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "id": record.id,
        "status": status,
        "pid": 0 if status == "stopped" else record.pid,
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
    }
    if record.annotations:
        state["annotations"] = record.annotations
    return state
