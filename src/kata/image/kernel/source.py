"""Debian's kernel source: which package, where its archive is, where it is unpacked."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kata.errors import NotFoundError
from kata.image import apt
from kata.image.store import Store
from kata.image.tool import print_progress, run_tool

OLDEST = (6, 12)
_NAME = re.compile(r"linux-source-(\d+)\.(\d+)")
_UNPACK_TIMEOUT = 600


@dataclass(frozen=True, slots=True)
class KernelSource:
    """`package` is for example linux-source-6.12, `version` the version of the package."""

    package: str
    version: str


def choose_package(names: Iterable[str]) -> str | None:
    """The newest of the packages linux-source-X.Y that is new enough."""
    versions = {(int(m[1]), int(m[2])): name for name in names if (m := _NAME.fullmatch(name))}
    newest = max((version for version in versions if version >= OLDEST), default=None)
    return versions[newest] if newest else None


def find_source() -> KernelSource:
    """Raises NotFoundError when apt knows no kernel source that is new enough."""
    package = choose_package(apt.find_names(r"linux-source-\d+\.\d+"))
    version = apt.find_version(package) if package else None
    if package is None or version is None:
        oldest = ".".join(map(str, OLDEST))
        raise NotFoundError(
            f"apt knows no package linux-source of version {oldest} or newer",
            hint="on Debian, add the security suite of your release and run apt-get update; elsewhere, take the "
            "distribution's kernel: kata-image kernel --debian, or make install KATA_KERNEL=debian",
        )
    return KernelSource(package, version)


def unpack_source(store: Store, source: KernelSource) -> Path:
    """Return the directory of the unpacked source, downloading the package unless it is installed here."""
    parent = store.work_dir(f"{source.package}-{source.version}")
    directory = parent / source.package
    marker = parent / "complete"
    if marker.exists():
        return directory
    archive = _find_installed(source) or _download_archive(source, parent)
    print_progress(f"unpacking {archive.name}")
    run_tool(
        ["tar", "--extract", f"--file={archive}", f"--directory={parent}"],
        purpose=f"unpack {archive}",
        timeout=_UNPACK_TIMEOUT,
    )
    marker.touch()
    return directory


def _find_installed(source: KernelSource) -> Path | None:
    archive = Path("/usr/src", f"{source.package}.tar.xz")
    if not archive.exists():
        return None
    said = run_tool(["dpkg-query", "-W", "-f", "${Version}", source.package], purpose="ask dpkg", timeout=60)
    return archive if said.decode() == source.version else None


def _download_archive(source: KernelSource, parent: Path) -> Path:
    print_progress(f"downloading {source.package} {source.version}")
    for deb in apt.download([apt.Package(source.package, source.version, "all")], parent):
        run_tool(
            ["dpkg-deb", "--extract", str(deb), str(parent)], purpose=f"unpack {deb.name}", timeout=_UNPACK_TIMEOUT
        )
        deb.unlink()
    return parent / "usr/src" / f"{source.package}.tar.xz"
