"""The Debian packages of the guest, and what is taken from them."""

import json
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from kata.errors import HostError, UnsupportedError
from kata.image import apt
from kata.image.rootfs.bytecode import Library
from kata.image.rootfs.closure import Source
from kata.image.rootfs.elf import find_libraries
from kata.image.rootfs.tree import Tree, make_link, unpack_archive
from kata.image.store import Store, hash_inputs
from kata.image.tool import print_progress

_PACKAGES = ("python3-minimal", "libpython3-stdlib", "crun", "e2fsprogs")
_DEBUG_PACKAGES = ("bash", "busybox-static", "strace", "iproute2", "util-linux", "procps")

_PROGRAMS = ("usr/bin/crun", "usr/sbin/mke2fs")
_DEBUG_PROGRAMS = (
    "usr/bin/bash", "usr/bin/busybox", "usr/bin/strace", "usr/bin/ip", "usr/bin/ss", "usr/bin/nsenter",
    "usr/bin/lsns", "usr/bin/ps", "usr/bin/top",
)  # fmt: skip
_FILES = ("etc/mke2fs.conf",)
# glibc opens it by name when a thread is cancelled, so no ELF header mentions it.
_LIBRARIES = ("usr/lib/x86_64-linux-gnu/libgcc_s.so.1",)
_MERGED_USR = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
_LINKS = {**_MERGED_USR, "usr/sbin/mkfs.ext4": "mke2fs"}
_APPLETS = (
    "cat", "chmod", "cp", "cut", "df", "dmesg", "du", "env", "find", "free", "grep", "head", "hexdump", "hostname",
    "id", "kill", "less", "ln", "ls", "mkdir", "mount", "mv", "nc", "netstat", "ping", "printf", "pwd", "readlink",
    "rm",
    "sed", "sleep", "sort", "stat", "tail", "test", "touch", "tr", "umount", "uname", "vi", "wc", "which", "xargs",
)  # fmt: skip
_EXTENSION = re.compile(r"\.cpython-\d+-x86_64-linux-gnu\.so$")


@dataclass(frozen=True, slots=True)
class Base:
    """All files of the packages, before anything is chosen; `packages` as `name=version`; `key` names both."""

    tree: Tree
    packages: tuple[str, ...]
    key: str


def load_base(store: Store, *, debug: bool) -> Base:
    """Read the packages of an image, downloading them first when the cache has not these versions."""
    if platform.machine() != "x86_64":
        raise UnsupportedError(f"guest images are built for x86_64 only, this host is {platform.machine()}")
    packages = _plan_packages(store, (*_PACKAGES, *(_DEBUG_PACKAGES if debug else ())))
    listed = tuple(map(str, packages))
    key = hash_inputs({"packages": listed})

    def produce(directory: Path) -> None:
        print_progress(f"downloading {len(packages)} packages")
        for deb in apt.download(packages, directory):
            deb.with_suffix(".tar").write_bytes(apt.read_archive(deb))
            deb.unlink()

    tree = Tree()
    for archive in sorted(store.fill("packages", key, produce).glob("*.tar")):
        unpack_archive(tree, archive.read_bytes())
    for path, target in _MERGED_USR.items():
        tree.add(path, make_link(target))
    return Base(tree, listed, key)


def _plan_packages(store: Store, names: tuple[str, ...]) -> list[apt.Package]:
    # Asking apt takes longer than the rest of a build with a warm cache, and its answer changes with its files only.
    key = hash_inputs({"names": names, "apt": apt.read_state()})

    def produce(directory: Path) -> None:
        plan = [[package.name, package.version, package.architecture] for package in apt.resolve(names)]
        (directory / "plan.json").write_text(json.dumps(plan))

    plan = json.loads((store.fill("plans", key, produce) / "plan.json").read_text())
    return [apt.Package(*fields) for fields in plan]


def find_python(base: Tree) -> tuple[int, int]:
    """The version of the guest's Python, from where /usr/bin/python3 points."""
    program = base.resolve("usr/bin/python3")
    match = re.fullmatch(r"usr/bin/python(\d+)\.(\d+)", program)
    if match is None:
        raise HostError(f"/usr/bin/python3 in the guest is /{program}, which names no version")
    return int(match[1]), int(match[2])


def load_standard_library(base: Tree, version: tuple[int, int]) -> tuple[Library, dict[str, str]]:
    """The guest's Python modules: those with source, and the paths of those that are shared objects."""
    directory = f"usr/lib/python{version[0]}.{version[1]}"
    sources: dict[str, Source] = {}
    extensions: dict[str, str] = {}
    for path in base:
        if not path.startswith(directory + "/"):
            continue
        inner = path.removeprefix(directory + "/")
        if inner.startswith("lib-dynload/"):
            extensions[_EXTENSION.sub("", inner.removeprefix("lib-dynload/"))] = path
        elif inner.endswith(".py"):
            name = inner.removesuffix(".py").replace("/", ".")
            package = name.endswith(".__init__")
            sources[name.removesuffix(".__init__")] = Source(base.read(path), package)
    return Library(directory, sources), extensions


def take_programs(base: Tree, extensions: list[str], *, debug: bool) -> Tree:
    """A tree with the programs of the guest, Python's `extensions` (paths), and the libraries of all of them."""
    tree = Tree()
    python = base.resolve("usr/bin/python3")
    programs = [python, *_PROGRAMS, *extensions, *_LIBRARIES, *(_DEBUG_PROGRAMS if debug else ())]
    for path in [*programs, *_FILES]:
        tree.add(path, base[base.resolve(path)])
    tree.add("usr/bin/python3", make_link(python.rpartition("/")[2]))
    for path, target in _LINKS.items():
        tree.add(path, make_link(target))
    if debug:
        for path, target in {"usr/bin/sh": "bash", **{f"usr/bin/{name}": "busybox" for name in _APPLETS}}.items():
            if path not in tree:
                tree.add(path, make_link(target))
    for path, file in find_libraries(base, programs).items():
        merged = path if path.startswith("usr/") else f"usr/{path}"
        tree.add(merged, make_link(f"/{file}") if file in tree else base[file])
    return tree
