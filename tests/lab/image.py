"""L1, the guest of QEMU that has KVM, vhost and an IOMMU of its own: its kernel, its initramfs and its root.

Built once and kept in the cache of `kata-image`, by the hash of what goes into it.
"""

import gzip
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from kata.image.kernel.debian import decompress_module, fetch_debian_kernel
from kata.image.kernel.modules import order_modules, parse_dependencies
from kata.image.rootfs.cpio import encode_tree
from kata.image.rootfs.tree import Tree, make_console, make_directory, make_file, make_link
from kata.image.store import Store, default_cache, hash_inputs

_PACKAGES = (
    "qemu-system-x86", "virtiofsd|qemu-system-common", "python3", "util-linux", "iproute2", "iptables", "kmod",
    "procps", "busybox-static", "catatonit", "crun", "erofs-utils", "cpio", "e2fsprogs", "containerd",
    "containernetworking-plugins", "mount", "ca-certificates", "xfsprogs",
)  # fmt: skip
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/qemu/*.fd", "/boot/*")
_AT_BOOT = ("virtio_pci", "virtio_blk", "ext4")
_SIZE = "4G"  # sparse
_BUILD_TIMEOUT = 1800

# The job's tar is unpacked over the root, so that what runs in L1 may change without building L1 anew.
_INIT = """\
#!/bin/sh
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
until [ -b /dev/vdc ]; do sleep 0.05; done
mount -t ext4 /dev/vda /root
tar -x -f /dev/vdb -C /root
mount -o move /dev /root/dev
exec switch_root /root /usr/bin/catatonit -- /lab/run
"""


class Level1(NamedTuple):
    """Paths in the cache."""

    kernel: Path
    initrd: Path
    root: Path


def build_level1() -> Level1:
    """Build it, or find it in the cache. Raise HostError, or CalledProcessError of a tool."""
    store = Store(default_cache())
    kernel_root, release = fetch_debian_kernel(store)
    packages = [_choose(word) for word in _PACKAGES]
    inputs = {"suite": _read_suite(), "packages": packages, "kernel": release, "init": _INIT, "excluded": _EXCLUDED}

    def produce(directory: Path) -> None:
        shutil.copy(kernel_root / f"boot/vmlinuz-{release}", directory / "kernel")
        _write_initrd(kernel_root / "usr/lib/modules" / release, directory / "initrd")
        _write_root(kernel_root / "usr/lib/modules" / release, packages, directory)

    entry = store.fill("lab", hash_inputs(inputs), produce)
    return Level1(entry / "kernel", entry / "initrd", entry / "root")


def _read_suite() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    return next(line.partition("=")[2].strip('"') for line in lines if line.startswith("VERSION_CODENAME="))


def _choose(word: str) -> str:
    """Return the first of `a|b` that apt can install."""
    for name in word.split("|"):
        shown = subprocess.run(["apt-cache", "policy", name], capture_output=True, text=True, check=True, timeout=60)
        if "Candidate:" in shown.stdout and "Candidate: (none)" not in shown.stdout:
            return name
    raise LookupError(f"apt knows none of {word}")


def _write_initrd(modules: Path, target: Path) -> None:
    dependencies = parse_dependencies((modules / "modules.dep").read_text())
    builtin = (modules / "modules.builtin").read_text().split()
    tree = Tree()
    for path in ("dev", "root"):
        tree.add(path, make_directory())
    tree.add("dev/console", make_console())
    tree.add("bin/busybox", make_file(Path("/bin/busybox").read_bytes(), 0o755))
    for applet in ("sh", "mount", "insmod", "sleep", "tar", "switch_root"):
        tree.add(f"bin/{applet}", make_link("busybox"))
    for number, path in enumerate(order_modules(_AT_BOOT, dependencies, builtin)):
        name, data = decompress_module(Path(path).name, (modules / path).read_bytes())
        tree.add(f"modules/{number:02d}-{name}", make_file(data))
    tree.add("init", make_file(_INIT.encode(), 0o755))
    target.write_bytes(gzip.compress(b"".join(encode_tree(tree)), 1))


def _write_root(modules: Path, packages: list[str], directory: Path) -> None:
    tree = directory / "tree"
    excluded = [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
    bootstrap = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=directory"]
    named = f"--include={','.join(packages)}"
    subprocess.run([*bootstrap, named, *excluded, _read_suite(), str(tree)], check=True, timeout=_BUILD_TIMEOUT)
    shutil.copytree(modules, tree / "usr/lib/modules" / modules.name, symlinks=True)
    with (directory / "root").open("wb") as image:
        image.truncate(0)
    make = ["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1", "-d", str(tree), str(directory / "root"), _SIZE]
    subprocess.run(make, check=True, timeout=_BUILD_TIMEOUT)
    shutil.rmtree(tree)
    os.chmod(directory / "root", 0o444)
