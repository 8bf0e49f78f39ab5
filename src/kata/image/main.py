"""kata-image: builds the kernel and the root file system that guests start from."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kata.errors import KataError
from kata.image import artefact
from kata.image.store import Store, default_cache
from kata.image.tool import print_progress

_OWN_PACKAGE = Path(__file__).resolve().parents[1]
_KERNEL_NAMES = {"bzimage": "vmlinuz.container", "elf": "vmlinux.container"}
_DEBIAN_KERNEL = "vmlinuz-debian.container"
_DEBIAN_INITRD = "kata-containers-initrd-debian.img"
_MEBIBYTE = 1 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns the exit status: 0, or 1 after printing what went wrong."""
    options = _make_parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    try:
        run(options)
    except KataError as error:
        print(f"kata-image: {error}", file=sys.stderr)
        return 1
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kata-image", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    kernel = commands.add_parser("kernel", help="build the guest kernel, or take the distribution's")
    kernel.add_argument("--debian", action="store_true", help="take the distribution's kernel instead of building one")
    kernel.add_argument("--jobs", type=int, metavar="N", help="compilers at a time (default: one per processor)")
    kernel.add_argument(
        "--fragment", type=Path, action="append", default=[], metavar="FILE", help="more options, after our own"
    )
    _add_source(kernel)
    kernel.set_defaults(run=_build_kernel)

    rootfs = commands.add_parser("rootfs", help="build the root image and the initrd")
    rootfs.add_argument("--debug", action="store_true", help="with a shell and tools to look around")
    rootfs.add_argument("--compression", choices=("none", "lz4", "lz4hc"), default="none", help="of the EROFS image")
    _add_source(rootfs)
    rootfs.set_defaults(run=_build_rootfs)

    listing = commands.add_parser("list", help="show the artefacts that are there")
    listing.set_defaults(run=_list_artefacts)
    checking = commands.add_parser("verify", help="compare the artefacts with their sidecars")
    checking.set_defaults(run=_verify_artefacts)
    for command in (kernel, rootfs, listing, checking):
        command.add_argument("--output", type=Path, default=artefact.DEFAULT_OUTPUT, metavar="DIR")
    for command in (kernel, rootfs):
        command.add_argument("--cache", type=Path, default=default_cache(), metavar="DIR", help="default: $KATA_CACHE")
    return parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", type=Path, default=_OWN_PACKAGE, metavar="DIR", help="the package `kata` to take the agent from"
    )


def _build_kernel(options: argparse.Namespace) -> None:
    if options.debian:
        _build_debian_kernel(options)
        return
    from kata.image.kernel.build import build_kernel  # noqa: PLC0415 - a root image is built without any of it

    began = time.monotonic()
    built = build_kernel(Store(options.cache), jobs=options.jobs, extra=options.fragment)
    for path, kind in ((built.bzimage, "bzimage"), (built.elf, "elf")):
        _publish(path, options.output / _KERNEL_NAMES[kind], f"kernel-{kind}", built.version, built.inputs)
    _report_time(began)


def _build_debian_kernel(options: argparse.Namespace) -> None:
    from kata.image.kernel.debian import build_debian_kernel  # noqa: PLC0415 - as above

    began = time.monotonic()
    built = build_debian_kernel(Store(options.cache), options.source)
    _publish(built.kernel, options.output / _DEBIAN_KERNEL, "kernel-bzimage", built.version, built.inputs)
    _publish(built.initrd, options.output / _DEBIAN_INITRD, "initrd", built.version, built.inputs)
    _report_time(began)


def _build_rootfs(options: argparse.Namespace) -> None:
    from kata.image.rootfs.build import build_images  # noqa: PLC0415 - as above

    began = time.monotonic()
    built = build_images(Store(options.cache), options.source, debug=options.debug, compression=options.compression)
    stem = "kata-containers-debug" if options.debug else "kata-containers"
    initrd = f"{stem}-initrd.img" if options.debug else "kata-containers-initrd.img"
    _publish(built.erofs, options.output / f"{stem}.img", "rootfs-erofs", built.version, built.inputs)
    _publish(built.initrd, options.output / initrd, "initrd", built.version, built.inputs)
    _report_time(began)


def _publish(source: Path, target: Path, kind: str, version: str, inputs: dict[str, object]) -> None:
    made = artefact.publish(source, target, kind=kind, version=version, inputs=inputs)
    print_progress(f"{target}: {made.size / _MEBIBYTE:.1f} MiB, version {made.version}")


def _report_time(began: float) -> None:
    print_progress(f"done in {time.monotonic() - began:.1f} s")


def _list_artefacts(options: argparse.Namespace) -> None:
    for path, known in artefact.find_artefacts(options.output).items():
        print(f"{path.name}\t{known.kind}\t{known.version}\t{known.size / _MEBIBYTE:.1f} MiB\t{known.sha256[:12]}")


def _verify_artefacts(options: argparse.Namespace) -> None:
    found = artefact.find_artefacts(options.output)
    for path, known in found.items():
        artefact.verify(path, known)
    print_progress(f"{len(found)} artefacts in {options.output} are what their sidecars say")


if __name__ == "__main__":
    sys.exit(main())
