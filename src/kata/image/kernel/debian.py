"""The distribution's kernel for VMs, for hosts that do not build one, and the initramfs with its modules."""

import lzma
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata.errors import HostError, NotFoundError
from kata.image import apt
from kata.image.kernel.modules import (
    AT_BOOT,
    ON_DEMAND,
    find_absent,
    format_dependencies,
    order_modules,
    parse_dependencies,
)
from kata.image.rootfs.build import plan_tree, write_initrd
from kata.image.rootfs.tree import Tree, make_file
from kata.image.store import Store, hash_inputs
from kata.image.tool import print_progress, require_tools, run_tool

LOAD_LIST = "etc/kata/modules.load"
# In this order: 6.12 has what 6.1 lacks, for example mounts of file descriptors and memory reclaim by generations.
# The last is Ubuntu's.
_METAPACKAGES = ("linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64", "linux-image-virtual")
_TOOLS = {"depmod": "kmod", "dpkg-deb": "dpkg"}
_IMAGE = re.compile(r"linux-image-(?P<release>\d\S*)")
_TIMEOUT = 300


@dataclass(frozen=True, slots=True)
class DebianKernel:
    """Paths in the cache, and what the files were made of."""

    kernel: Path
    initrd: Path
    version: str
    inputs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Modules:
    """Files of the module tree by path in the guest, and the paths of those that load at boot, in order."""

    files: Mapping[str, bytes]
    at_boot: tuple[str, ...]


def build_debian_kernel(store: Store, sources: Path) -> DebianKernel:
    """Fetch the kernel and build its initramfs, or find both in the cache. `sources` is a directory with `kata`."""
    root, release = fetch_debian_kernel(store)
    modules = read_modules(root, release)
    tree, inputs = plan_tree(store, sources, debug=False)
    inputs |= {"kernel": root.name, "modules": list(modules.files), "at_boot": modules.at_boot}

    def produce(directory: Path) -> None:
        add_modules(tree, modules)
        write_initrd(tree, directory / "initrd")

    entry = store.fill("debian-initrd", hash_inputs(inputs), produce)
    return DebianKernel(root / f"boot/vmlinuz-{release}", entry / "initrd", release, inputs)


def fetch_debian_kernel(store: Store) -> tuple[Path, str]:
    """Return the kernel's unpacked packages in the cache, with modules.dep, and its release."""
    require_tools(_TOOLS)
    packages, release = _find_image()
    return _unpack_image(store, packages), release


def add_modules(tree: Tree, modules: Modules) -> None:
    """Add the module tree, and the list of what the agent loads at boot."""
    for path, data in modules.files.items():
        tree.add(path, make_file(data))
    tree.add(LOAD_LIST, make_file("".join(f"/{path}\n" for path in modules.at_boot).encode()))


def decompress_module(name: str, data: bytes) -> tuple[str, bytes]:
    """A module's file name and content without the compression that newer releases of Debian use."""
    if name.endswith(".xz"):
        return name.removesuffix(".xz"), lzma.decompress(data)
    if name.endswith(".zst"):
        plain = run_tool(["zstd", "--decompress", "--stdout"], purpose=f"unpack {name}", timeout=_TIMEOUT, stdin=data)
        return name.removesuffix(".zst"), plain
    return name, data


def _find_image() -> tuple[list[apt.Package], str]:
    for metapackage in _METAPACKAGES:
        for name in apt.find_dependencies(metapackage):
            if match := _IMAGE.fullmatch(name):
                # Debian's modules come with the image, Ubuntu's in a package of their own.
                versions = {wanted: apt.find_version(wanted) for wanted in (name, f"linux-modules-{match['release']}")}
                packages = [apt.Package(wanted, version, "amd64") for wanted, version in versions.items() if version]
                if versions[name]:
                    return packages, match["release"]
    raise NotFoundError(f"apt knows none of the kernels {', '.join(_METAPACKAGES)}", hint="run apt-get update")


def _list_names(packages: list[apt.Package]) -> str:
    return " ".join(map(str, packages))


def _unpack_image(store: Store, packages: list[apt.Package]) -> Path:
    def produce(directory: Path) -> None:
        print_progress(f"downloading {_list_names(packages)}")
        with tempfile.TemporaryDirectory(prefix="kata-image-") as scratch:
            for deb in apt.download(packages, Path(scratch)):
                run_tool(
                    ["dpkg-deb", "--extract", str(deb), str(directory)], purpose=f"unpack {deb.name}", timeout=_TIMEOUT
                )
        if (directory / "lib").is_dir():
            shutil.copytree(directory / "lib", directory / "usr/lib", dirs_exist_ok=True)
            shutil.rmtree(directory / "lib")
        (directory / "lib").symlink_to("usr/lib")
        for modules in (directory / "lib/modules").iterdir():
            run_tool(["depmod", "--basedir", str(directory), modules.name], purpose="order modules", timeout=_TIMEOUT)

    return store.fill("debian-kernel", hash_inputs({"package": _list_names(packages)}), produce)


def read_modules(root: Path, release: str) -> Modules:
    """Choose among the modules of an unpacked kernel package below `root`."""
    directory = root / "usr/lib/modules" / release
    prefix = f"usr/lib/modules/{release}"
    try:
        dependencies = parse_dependencies((directory / "modules.dep").read_text())
        builtin = (directory / "modules.builtin").read_text().split()
        if absent := find_absent((*AT_BOOT, *ON_DEMAND), dependencies, builtin):
            print_progress(f"{release} does not have: {', '.join(absent)}")
        chosen = order_modules((*AT_BOOT, *ON_DEMAND), dependencies, builtin)
        first = len(order_modules(AT_BOOT, dependencies, builtin))
        plain = [decompress_module(path, (directory / path).read_bytes()) for path in chosen]
    except OSError as error:
        raise HostError(f"cannot read the modules of {release}: {error}") from error
    files = {f"{prefix}/{name}": data for name, data in plain}
    files[f"{prefix}/modules.dep"] = format_dependencies(chosen, dependencies).encode()
    return Modules(files, tuple(files)[:first])
