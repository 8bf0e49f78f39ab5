"""Mounts: bind, propagation, and what is mounted where."""

import errno
import os
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from kata.sys import linux

Result = TypeVar("Result")


class MountPoint(NamedTuple):
    """One line of /proc/PID/mountinfo, as proc(5) describes it."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    path: str
    options: str
    propagation: tuple[str, ...]
    fstype: str
    source: str


_ESCAPED = frozenset(" \t\n\\#")
"""What the kernel writes as a backslash and three octal digits in a path."""


def parse_mountinfo(text: str, word: str = "") -> list[MountPoint]:
    """Read those mountinfo lines that have `word`, in the kernel's order (parents before what is mounted on them)."""
    points = []
    # Only a line feed ends a line; the other characters that str.splitlines cuts at are bytes of a path like any other.
    for line in text.removesuffix("\n").split("\n"):
        if word not in line:
            continue
        fields = line.split(" ")
        dash = fields.index("-", 6)
        points.append(
            MountPoint(
                mount_id=int(fields[0]),
                parent_id=int(fields[1]),
                device=fields[2],
                root=_unescape(fields[3]),
                path=_unescape(fields[4]),
                options=fields[5],
                propagation=tuple(fields[6:dash]),
                fstype=fields[dash + 1],
                source=_unescape(fields[dash + 2]),
            )
        )
    return points


def _unescape(field: str) -> str:
    """Undo the kernel's octal escapes of space, tab, newline, backslash (and '#')."""
    head, *parts = field.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts)


def list_mounts(below: str = "/", pid: int | None = None) -> list[MountPoint]:
    """Mounts at or below a path, in the namespace of a process (the calling thread's by default)."""
    name = "thread-self" if pid is None else str(pid)
    with open(f"/proc/{name}/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        # Most callers look for one path among dozens, and to read a line costs much more than to search it.
        points = parse_mountinfo(file.read(), below.rstrip("/") if _ESCAPED.isdisjoint(below) else "")
    prefix = below.rstrip("/") + "/"
    return [point for point in points if point.path == below or point.path.startswith(prefix)]


def set_propagation(path: str, kind: int, *, recursive: bool = False) -> None:
    """Make a mount MS_PRIVATE, MS_SLAVE or MS_SHARED."""
    linux.mount("none", path, flags=kind | (linux.MS_REC if recursive else 0))


def bind(source: str, target: str, *, recursive: bool = True) -> None:
    """Show `source` at `target` too."""
    linux.mount(source, target, flags=linux.MS_BIND | (linux.MS_REC if recursive else 0))


def clone_tree(path: str) -> int:
    """A descriptor of a detached copy of what a path shows, with every mount below it. Raise OSError."""
    flags = linux.OPEN_TREE_CLONE | linux.OPEN_TREE_CLOEXEC | linux.AT_RECURSIVE
    return linux.open_tree(linux.AT_FDCWD, path, flags)


def mount_nowhere(fstype: str) -> int:
    """Return a descriptor of the root of a new file system that has no place, and ends with the descriptor.

    sysfs shows the calling thread's network namespace. Raise OSError.
    """
    context = linux.fsopen(fstype)
    try:
        linux.fsconfig_create(context)
        return linux.fsmount(context)
    finally:
        os.close(context)


def clone_mount(descriptor: int) -> int:
    """A descriptor of a detached copy of one mount, without those below it, from a descriptor of a directory in it."""
    flags = linux.OPEN_TREE_CLONE | linux.OPEN_TREE_CLOEXEC | linux.AT_EMPTY_PATH
    return linux.open_tree(descriptor, "", flags)


def visit_namespace(namespace: int, visit: Callable[[], Result]) -> Result:
    """Do something in another mount namespace, given by its descriptor, and return what came of it.

    A mount made after this process left for a namespace of its own is seen only there, unless the host's mounts
    propagate, which nothing promises. The thread that goes there shares no working directory with the others
    (setns(2)), and ends there. Raise what `visit` raised, or OSError when the namespace cannot be entered.
    """

    def enter() -> None:
        linux.unshare(linux.CLONE_FS)
        linux.setns(namespace, linux.CLONE_NEWNS)

    return _do_elsewhere(enter, visit)


def visit_copy_of_namespace(visit: Callable[[], Result]) -> Result:
    """Do something in a copy of this mount namespace that no mount leaves or reaches, and return what came of it.

    A process that is started there keeps the copy. Raise what `visit` raised, or OSError.
    """

    def enter() -> None:
        linux.unshare(linux.CLONE_NEWNS)
        set_propagation("/", linux.MS_PRIVATE, recursive=True)

    return _do_elsewhere(enter, visit)


def _do_elsewhere(enter: Callable[[], None], visit: Callable[[], Result]) -> Result:
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            enter()
            results.append(visit())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the caller
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in errors:
        raise error
    return results[0]


def clone_trees_of(namespace: int, paths: Sequence[str]) -> list[int | OSError]:
    """Do `clone_tree` for each path in another mount namespace, and return what came of each."""

    def clone() -> list[int | OSError]:
        found: list[int | OSError] = []
        for path in paths:
            try:
                found.append(clone_tree(path))
            except OSError as error:
                found.append(error)
        return found

    return visit_namespace(namespace, clone)


def attach_tree(
    tree: int, target: int, *, readonly: bool, propagation: int = linux.MS_PRIVATE, top_only: bool = False
) -> None:
    """Put a detached tree onto what an O_PATH descriptor shows.

    The attributes are set before the tree becomes visible, and read-only reaches the mounts below too unless
    `top_only`; the remount of mount(2) can do neither. Descriptors, not paths: a link put in the way later changes
    nothing.
    """
    if readonly:
        linux.mount_setattr(tree, enable=linux.MOUNT_ATTR_RDONLY, recursive=not top_only)
    linux.mount_setattr(tree, propagation=propagation)
    linux.move_mount(tree, target)


def unmount(path: str, *, detach: bool = False, follow: bool = False) -> bool:
    """Take the topmost mount off a path. False when there was none. `detach` does not wait for its users.

    A path that is a link is refused unless `follow`.
    """
    try:
        linux.umount2(path, (0 if follow else linux.UMOUNT_NOFOLLOW) | (linux.MNT_DETACH if detach else 0))
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.ENOENT}:
            return False
        raise
    return True


def unmount_below(path: str) -> None:
    """Detach every mount at or below a path, the newest first."""
    for point in reversed(list_mounts(path)):
        unmount(point.path, detach=True)
