"""What a sandbox owns on the host, on disk before it is made, so that it can be released whoever died.

One JSON line per resource: `[kind, value]`. A living daemon and `gc` after a crash release by the same function.
"""

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum

from kata.errors import KataError
from kata.network.connection import disconnect_namespace
from kata.network.namespace import visit_namespace
from kata.resources.cgroup import remove_cgroup
from kata.sys.file import read_text, replace_file
from kata.sys.mount import unmount
from kata.sys.process import end_process, read_start_ticks
from kata.sys.tree import remove_tree

_PROCESS_TIMEOUT = 10.0
_DEVICE_TIMEOUT = 20.0
"""Seconds for a VMM that was killed to let go of a device, and as many for a driver to make a link of it."""


class Kind(StrEnum):
    PROCESS = "process"
    MOUNT = "mount"
    CGROUP = "cgroup"
    TREE = "tree"
    NETWORK = "network"
    FILE = "file"
    GROUP = "iommu-group"
    DEVICE = "pci-device"


def _kill(value: str) -> None:
    """Kill a process and wait for its end: a tap that it has open would stay, and so would a cgroup."""
    pid, start_ticks = value.split()
    end_process(int(pid), int(start_ticks), signal.SIGKILL, timeout=_PROCESS_TIMEOUT)


def _unmount(value: str) -> None:
    unmount(value, detach=True)


def _unlink(value: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(value)


def _disconnect(value: str) -> None:
    """Take the VM's filters off the links of the namespace `value` names, if it is still that one."""
    inode, sandbox, path = value.split(" ", 2)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return  # it went, and its links with it
    try:
        if os.fstat(descriptor).st_ino == int(inode):
            with visit_namespace(descriptor):
                disconnect_namespace(sandbox)
    finally:
        os.close(descriptor)


def _reclaim_group(value: str) -> None:
    from kata.resources.hostdevice import reclaim_group  # noqa: PLC0415 - few sandboxes have one

    group, borrower, user, group_id = value.split()
    reclaim_group(group, int(borrower), int(user), int(group_id))


def _give_back_device(value: str) -> None:
    """Give a network card back to its driver, and move the link to the namespace that it was in, if that is there."""
    from kata.network.physical import bring_home  # noqa: PLC0415 - few sandboxes have one
    from kata.resources.hostdevice import give_back, wait_unused  # noqa: PLC0415

    note = json.loads(value)
    wait_unused(note["group"], timeout=_DEVICE_TIMEOUT)
    give_back(note["address"], note["driver"])
    try:
        descriptor = os.open(note["path"], os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return  # the pod's namespace went, so the link stays in the host's, as the kernel would have put it there
    try:
        if os.fstat(descriptor).st_ino == note["inode"]:
            bring_home(note["address"], descriptor, note["name"], timeout=_DEVICE_TIMEOUT)
    finally:
        os.close(descriptor)


_RELEASE: dict[Kind, Callable[[str], None]] = {
    Kind.PROCESS: _kill,
    Kind.MOUNT: _unmount,
    Kind.CGROUP: remove_cgroup,
    Kind.TREE: remove_tree,
    Kind.NETWORK: _disconnect,
    Kind.FILE: _unlink,
    Kind.GROUP: _reclaim_group,
    Kind.DEVICE: _give_back_device,
}


def find_ledger(directory: str) -> str:
    return f"{directory}/ledger"


def _format_line(kind: Kind, value: str) -> str:
    return json.dumps([kind, value]) + "\n"


def record_resource(directory: str, kind: Kind, value: str) -> None:
    """Write down a resource of the sandbox at `directory`, before it is made. A process can only be noted after."""
    descriptor = os.open(find_ledger(directory), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, _format_line(kind, value).encode())
    finally:
        os.close(descriptor)


def record_process(directory: str, pid: int) -> None:
    """Write down a process by its pid and the time it started."""
    ticks = read_start_ticks(pid)
    if ticks is not None:
        record_resource(directory, Kind.PROCESS, f"{pid} {ticks}")


def list_resources(directory: str) -> list[tuple[Kind, str]]:
    """Return what is written down, the oldest first. A line cut short by a crash is left out."""
    rows: list[tuple[Kind, str]] = []
    for line in read_text(find_ledger(directory)).splitlines():
        try:
            kind, value = json.loads(line)
            rows.append((Kind(kind), str(value)))
        except (ValueError, TypeError):
            continue
    return rows


def forget_gone_cgroups(directory: str) -> None:
    """Drop the cgroups that are no more from what is written down: a pod may have thousands of them in its life."""
    rows = list_resources(directory)
    kept = [row for row in rows if row[0] is not Kind.CGROUP or os.path.exists(row[1])]
    if len(kept) < len(rows):
        replace_file(find_ledger(directory), "".join(_format_line(*row) for row in kept))


def release_resources(directory: str) -> list[str]:
    """Release everything that is written down, the newest first, whatever fails; return a sentence per failure.

    Blocks up to seconds. What could not be released stays written down, for another try.
    """
    failures = []
    kept: list[str] = []
    for kind, value in reversed(list_resources(directory)):
        try:
            _RELEASE[kind](value)
        except (OSError, ValueError, KataError) as error:
            failures.append(f"{kind} {value} could not be released: {error}")
            kept.insert(0, _format_line(kind, value))
    if os.path.exists(find_ledger(directory)):
        replace_file(find_ledger(directory), "".join(kept))
    return failures
