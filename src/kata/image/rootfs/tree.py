"""A file tree in memory: what an image will hold, before any file system is chosen.

Everything belongs to root and is dated 1970: two builds of the same inputs give the same bytes.
"""

import io
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kata.errors import NotFoundError, UsageError

_MAX_LINKS = 40  # as many as the kernel follows (path_resolution(7))


@dataclass(frozen=True, slots=True)
class Node:
    """One file. `mode` has type and permission bits; `data` is the content, or the target of a symbolic link.

    `device` is (major, minor) of a device node.
    """

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)

    @property
    def target(self) -> str:
        return self.data.decode()


def make_directory(permissions: int = 0o755) -> Node:
    return Node(stat.S_IFDIR | permissions)


def make_file(data: bytes, permissions: int = 0o644) -> Node:
    return Node(stat.S_IFREG | permissions, data)


def make_link(target: str) -> Node:
    return Node(stat.S_IFLNK | 0o777, target.encode())


def make_console() -> Node:
    """/dev/console, which the kernel opens for the first process before anyone mounted devtmpfs."""
    return Node(stat.S_IFCHR | 0o600, device=(5, 1))


class Tree:
    """Paths, relative to the root and without `.` or `..`, to nodes. Parents appear by themselves."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._nodes

    def __iter__(self) -> Iterator[str]:
        """All paths, parents before their children."""
        return iter(sorted(self._nodes))

    def __getitem__(self, path: str) -> Node:
        try:
            return self._nodes[path]
        except KeyError:
            raise NotFoundError(f"the tree has no file /{path}") from None

    def add(self, path: str, node: Node) -> None:
        """Raises UsageError when `path` could leave the root."""
        if not path or path.startswith("/") or any(part in {"", ".", ".."} for part in path.split("/")):
            raise UsageError(f"{path!r} is not a path inside the tree")
        parent = posixpath.dirname(path)
        if parent and parent not in self._nodes:
            self.add(parent, make_directory())
        self._nodes[path] = node

    def size(self) -> int:
        """Bytes of all contents."""
        return sum(len(node.data) for node in self._nodes.values())

    def resolve(self, path: str) -> str:
        """Follow symbolic links, in the directories too, and return the path of the file itself.

        Raises NotFoundError when there is none.
        """
        links = 0
        waiting = [part for part in path.split("/") if part][::-1]
        done: list[str] = []
        while waiting:
            part = waiting.pop()
            if part == "..":
                del done[-1:]
                continue
            here = "/".join([*done, part])
            node = self._nodes.get(here)
            if node is None:
                raise NotFoundError(f"the tree has no file /{path}")
            if not stat.S_ISLNK(node.mode):
                done.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise NotFoundError(f"/{path} is a symbolic link to itself")
            if node.target.startswith("/"):
                done = []
            waiting += [step for step in node.target.split("/") if step not in {"", "."}][::-1]
        return "/".join(done)

    def read(self, path: str) -> bytes:
        """The content of the file that `path` leads to."""
        return self[self.resolve(path)].data


def unpack_archive(tree: Tree, archive: bytes) -> None:
    """Add the files, directories and links of a tar archive (a Debian package) to `tree`.

    /bin, /lib and /sbin land in /usr: releases before Debian 13 still ship files in both.
    """
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        for member in members:
            path = merge_usr(posixpath.normpath(member.name).lstrip("/"))
            if path == ".":
                continue
            if member.isdir():
                if path not in tree:
                    tree.add(path, make_directory(member.mode & 0o7777))
            elif member.issym():
                tree.add(path, make_link(member.linkname))
            elif member.islnk():
                tree.add(path, tree[merge_usr(posixpath.normpath(member.linkname))])
            elif member.isfile() and (file := members.extractfile(member)):
                tree.add(path, make_file(file.read(), member.mode & 0o7777))


def merge_usr(path: str) -> str:
    first = path.split("/", 1)[0]
    return f"usr/{path}" if first in {"bin", "sbin", "lib", "lib64"} else path


def write_to_disk(tree: Tree, directory: Path) -> None:
    """Write the tree below an existing, empty directory. Device nodes are left out: /dev is a devtmpfs."""
    for path in tree:
        node, target = tree[path], directory / path
        if stat.S_ISDIR(node.mode):
            target.mkdir()
        elif stat.S_ISLNK(node.mode):
            target.symlink_to(node.target)
        elif stat.S_ISREG(node.mode):
            target.write_bytes(node.data)
        else:
            continue
        if not stat.S_ISLNK(node.mode):
            target.chmod(stat.S_IMODE(node.mode))
