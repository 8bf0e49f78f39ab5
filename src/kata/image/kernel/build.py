"""Compiling the guest kernel."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata.image.kernel.fragment import (
    FRAGMENTS,
    Option,
    check_survival,
    format_options,
    merge_options,
    override_options,
    parse_config,
    read_fragments,
)
from kata.image.kernel.source import KernelSource, find_source, unpack_source
from kata.image.store import Store, hash_inputs
from kata.image.tool import print_progress, require_tools, run_tool

_TOOLS = {
    "gcc": "gcc", "make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "ld": "binutils", "tar": "tar",
    "xz": "xz-utils", "lz4": "lz4", "perl": "perl",
}  # fmt: skip
_CONFIGURE_TIMEOUT = 300
_BUILD_TIMEOUT = 4 * 3600
# Without these the kernel's banner carries who built it, where, and when.
_NOBODY = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "kata",
    "KBUILD_BUILD_HOST": "kata",
    "KBUILD_BUILD_VERSION": "1",
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """Paths of the built files in the cache, and what they were made of."""

    bzimage: Path
    elf: Path
    version: str
    inputs: dict[str, Any]


def build_kernel(store: Store, *, jobs: int | None, extra: Sequence[Path]) -> Kernel:
    """Build, or find in the cache, the kernel of our fragments and the files `extra`, which win over ours.

    `jobs` is how many compilers run at a time. Raises ConfigError when an option got lost, HostError when a tool fails.
    """
    require_tools(_TOOLS)
    own = merge_options(read_fragments(sorted(FRAGMENTS.glob("*.config"))))
    options = override_options(own, merge_options(read_fragments(extra)))
    source = find_source()
    compiler = run_tool(["gcc", "--version"], purpose="ask for the compiler", timeout=60).decode().splitlines()[0]
    wished = format_options(options.values())
    inputs = {"source": source.package, "source_version": source.version, "compiler": compiler, "options": wished}

    def produce(directory: Path) -> None:
        _build(store, source, list(options.values()), directory, jobs or os.cpu_count() or 1)

    entry = store.fill("kernel", hash_inputs(inputs), produce)
    release = (entry / "release").read_text().strip()
    config = (entry / "config").read_text()
    recorded = {**inputs, "options": wished.splitlines(), "config": config.splitlines()}
    return Kernel(entry / "bzImage", entry / "vmlinux", release, recorded)


def _build(store: Store, source: KernelSource, options: list[Option], directory: Path, jobs: int) -> None:
    tree = unpack_source(store, source)
    # Kept between builds: make rebuilds what an option touches and no more.
    objects = store.work_dir(f"build-{source.package}-{source.version}")
    make = ["make", "--silent", f"--directory={tree}", f"O={objects}", f"--jobs={jobs}", "LOCALVERSION=-kata"]
    wishes = directory / "wishes"
    wishes.write_text(format_options(options))
    run_tool(
        [*make, f"KCONFIG_ALLCONFIG={wishes}", "allnoconfig"],
        purpose="configure the kernel",
        timeout=_CONFIGURE_TIMEOUT,
        env=_NOBODY,
    )
    config = (objects / ".config").read_text()
    check_survival(options, parse_config(config))
    print_progress(f"compiling {source.package} {source.version} with {len(parse_config(config))} options")
    run_tool([*make, "bzImage"], purpose="compile the kernel", timeout=_BUILD_TIMEOUT, env=_NOBODY)
    release = run_tool([*make, "--no-print-directory", "kernelrelease"], purpose="ask for the release", timeout=120)
    (directory / "release").write_bytes(release)
    (directory / "config").write_text(config)
    shutil.copyfile(objects / "arch/x86/boot/bzImage", directory / "bzImage")
    run_tool(
        ["strip", "--strip-all", "-o", str(directory / "vmlinux"), str(objects / "vmlinux")],
        purpose="strip the kernel",
        timeout=_CONFIGURE_TIMEOUT,
    )
