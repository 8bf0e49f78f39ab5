"""From packages and agent to the images: which files, which file system, which names."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata.errors import HostError
from kata.image.rootfs import agent, base, cpio
from kata.image.rootfs.bytecode import DROP_DOCSTRINGS, KEEP_ALL, Library, check_interpreter, compile_library
from kata.image.rootfs.closure import START_UP, find_closure
from kata.image.rootfs.tree import Tree, make_file, write_to_disk
from kata.image.store import Store, hash_inputs
from kata.image.tool import print_progress, require_tools, run_tool

# Raise it when the same inputs are to give other bytes than before.
RECIPE = 5

_TOOLS = {"mkfs.erofs": "erofs-utils", "apt-get": "apt", "dpkg-deb": "dpkg"}
# All images have the same: nobody mounts by it, and a random one would make every build differ.
_UUID = "6b617461-0000-4000-8000-000000000000"
_MKFS_TIMEOUT = 120
# A file whose end is beside its inode cannot be mapped from an image that is memory: a guest's page cache has it.
COMPRESSIONS = {"none": ("-Enoinline_data",), "lz4": ("-zlz4",), "lz4hc": ("-zlz4hc,12",)}
_UNIT = 2 << 20
"""What the size of an image is a multiple of, so that it can be memory: the size of a huge page."""


@dataclass(frozen=True, slots=True)
class Images:
    """Paths of the built files in the cache, and what they were made of."""

    erofs: Path
    initrd: Path
    version: str
    inputs: dict[str, Any]


def plan_tree(store: Store, sources: Path, *, debug: bool) -> tuple[Tree, dict[str, Any]]:
    """Put the guest's root together. `sources` is a directory with the package `kata`.

    Returns the tree and the inputs that decide its content. Raises errors of apt, of the cache, of the import closure.
    """
    packages = base.load_base(store, debug=debug)
    version = base.find_python(packages.tree)
    check_interpreter(version)
    library, extensions = base.load_standard_library(packages.tree, version)
    own = agent.read_sources(sources)

    roots = agent.list_roots(own)
    roots += [name for name in START_UP if name in library.sources]
    names = find_closure(roots, {**library.sources, **own}, extensions)

    tree = base.take_programs(packages.tree, sorted(extensions[name] for name in names & set(extensions)), debug=debug)
    agent.add_system_files(tree)
    compiled = {
        **compile_library(store, library, names & set(library.sources), DROP_DOCSTRINGS),
        **compile_library(store, Library(agent.PACKAGE_DIRECTORY, own), names & set(own), KEEP_ALL),
    }
    for path, code in compiled.items():
        tree.add(path, make_file(code))
    inputs = {"packages": packages.packages, "agent": agent.hash_sources(own), "debug": debug, "recipe": RECIPE}
    return tree, inputs


def build_images(store: Store, sources: Path, *, debug: bool, compression: str) -> Images:
    """Build, or find in the cache, the EROFS image and the initramfs of the same tree."""
    require_tools(_TOOLS)
    tree, inputs = plan_tree(store, sources, debug=debug)
    inputs |= {"compression": compression}

    def produce(directory: Path) -> None:
        print_progress(f"writing images of {len(list(tree))} files, {tree.size() / 1e6:.1f} MB")
        write_erofs(tree, directory / "image", compression)
        write_initrd(tree, directory / "initrd")

    entry = store.fill("rootfs", hash_inputs(inputs), produce)
    return Images(entry / "image", entry / "initrd", inputs["agent"][:12], inputs)


def write_erofs(tree: Tree, target: Path, compression: str) -> None:
    """Write a read-only image without a partition table. `compression` is a key of COMPRESSIONS."""
    with tempfile.TemporaryDirectory(prefix="kata-image-", dir=target.parent) as scratch:
        root = Path(scratch, "root")
        root.mkdir()
        root.chmod(0o755)
        write_to_disk(tree, root)
        run_tool(
            ["mkfs.erofs", "--quiet", "-T0", "-U", _UUID, "--all-root", "-x-1", *COMPRESSIONS[compression],
             str(target), str(root)],
            purpose="write the EROFS image",
            timeout=_MKFS_TIMEOUT,
            env={"SOURCE_DATE_EPOCH": "0"},
        )  # fmt: skip
    size = target.stat().st_size
    if size == 0:
        raise HostError(f"mkfs.erofs left {target} empty")
    os.truncate(target, -(-size // _UNIT) * _UNIT)


def write_initrd(tree: Tree, target: Path) -> None:
    """Write the tree as an initramfs; not compressed, because unpacking costs an emulated guest more than reading."""
    with target.open("wb") as file:
        file.writelines(cpio.encode_tree(tree))
        os.fsync(file.fileno())
