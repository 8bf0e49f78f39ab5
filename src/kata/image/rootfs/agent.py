"""The part of the image that is ours: the agent, what starts it, and the few files it expects."""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

from kata.errors import NotFoundError
from kata.image.rootfs.closure import Source
from kata.image.rootfs.tree import Tree, make_console, make_directory, make_file

PACKAGE_DIRECTORY = "usr/lib/kata"
AGENT_PROGRAM = "usr/sbin/kata-agent"
_PARTS = ("__init__.py", "errors.py", "sys", "protocol", "transport", "agent")

_LAUNCHER = b"""\
#!/usr/bin/python3 -IS
import sys
from time import monotonic_ns

began = monotonic_ns()
sys.path.insert(0, "/usr/lib/kata")
from kata.sys.deferred import defer_modules

defer_modules()
from kata.agent.main import main

sys.exit(main(began))
"""

_DIRECTORIES = ("dev", "mnt", "proc", "root", "run", "sys", "var/lib", "var/log", "usr/lib/kata")
_FILES = {
    "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    "etc/hostname": b"kata\n",
    "etc/hosts": b"127.0.0.1 localhost\n::1 localhost\n",
    # Empty, so that the agent has something to bind a file of its own over: the root is read-only.
    "etc/machine-id": b"",
    "etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/resolv.conf": b"",
}


def read_sources(package: Path) -> dict[str, Source]:
    """The modules of the package `kata` (the directory `package`) that the guest may have, by their names.

    Raises NotFoundError when the directory has no agent.
    """
    files = [file for part in _PARTS for file in _list_files(package / part)]
    sources = {}
    for file in files:
        name = ".".join(("kata", *file.relative_to(package).with_suffix("").parts))
        sources[name.removesuffix(".__init__")] = Source(file.read_bytes(), file.name == "__init__.py")
    if "kata.agent.main" not in sources:
        raise NotFoundError(f"{package} has no agent/main.py", hint="name a tree that has one with --source")
    return sources


def list_roots(sources: Iterable[str]) -> list[str]:
    """Return the modules that a guest loads by itself: the agent's, and what its launcher imports."""
    launched = [node.module for node in ast.parse(_LAUNCHER).body if isinstance(node, ast.ImportFrom)]
    return [name for name in sources if name in launched or name == "kata.agent" or name.startswith("kata.agent.")]


def _list_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def hash_sources(sources: dict[str, Source]) -> str:
    digest = hashlib.sha256()
    for name, source in sorted(sources.items()):
        digest.update(f"{name} {len(source.text)}\n".encode())
        digest.update(source.text)
    return digest.hexdigest()


def add_system_files(tree: Tree) -> None:
    """Add the directories, the configuration and the launcher of a guest."""
    for path in _DIRECTORIES:
        tree.add(path, make_directory())
    tree.add("tmp", make_directory(0o1777))
    tree.add("dev/console", make_console())
    for path, data in _FILES.items():
        tree.add(path, make_file(data))
    tree.add(AGENT_PROGRAM, make_file(_LAUNCHER, 0o755))
