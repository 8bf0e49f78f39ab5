"""Debian packages by the host's own apt: its sources, keys, proxies and pins.

Nothing is installed: packages are resolved against an empty system, downloaded, and read as archives.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kata.errors import HostError
from kata.image.tool import run_tool

_INSTALL = re.compile(r"^Inst (?P<name>\S+) \((?P<version>\S+) .*\[(?P<architecture>\S+)\]\)")
_STATE = ("/etc/apt", "/var/lib/apt/lists")
_RESOLVE_TIMEOUT = 120
_DOWNLOAD_TIMEOUT = 1800


@dataclass(frozen=True, slots=True, order=True)
class Package:
    name: str
    version: str
    architecture: str

    def __str__(self) -> str:
        return f"{self.name}={self.version}"


def parse_plan(text: str) -> list[Package]:
    """Read the `Inst` lines of `apt-get --simulate install`, sorted by name."""
    matches = (_INSTALL.match(line) for line in text.splitlines())
    return sorted(Package(m["name"], m["version"], m["architecture"]) for m in matches if m)


def resolve(names: Sequence[str]) -> list[Package]:
    """Return the packages `names` and all they depend on, with the versions that this host would install."""
    said = run_tool(
        [
            "apt-get", "--simulate", "--no-install-recommends", "-o", "Dir::State::status=/dev/null",
            "-o", "APT::Get::Show-User-Simulation-Note=false", "install", *names,
        ],
        purpose=f"resolve the packages {' '.join(names)}",
        timeout=_RESOLVE_TIMEOUT,
    )  # fmt: skip
    packages = parse_plan(said.decode())
    if not packages:
        raise HostError(f"apt knows none of the packages {' '.join(names)}", hint="run apt-get update")
    return packages


def read_state() -> list[tuple[str, int]]:
    """What apt's answers depend on: its configuration and the package lists, as paths and times in nanoseconds."""
    files = [Path(directory, name) for top in _STATE for directory, _, names in os.walk(top) for name in names]
    return sorted((str(file), file.stat().st_mtime_ns) for file in files if file.name != "lock" and file.exists())


def find_names(pattern: str) -> list[str]:
    """Names of the packages that apt knows and that match the regular expression `pattern`."""
    listed = run_tool(["apt-cache", "pkgnames"], purpose="list packages", timeout=_RESOLVE_TIMEOUT).decode().split()
    return sorted(name for name in listed if re.fullmatch(pattern, name))


def find_version(name: str) -> str | None:
    """The version that apt would install, or None when it knows no such package."""
    policy = run_tool(["apt-cache", "policy", name], purpose=f"look up {name}", timeout=_RESOLVE_TIMEOUT).decode()
    match = re.search(r"^\s*Candidate: (\S+)$", policy, re.MULTILINE)
    return None if match is None or match[1] == "(none)" else match[1]


def find_dependencies(name: str) -> list[str]:
    """The packages that `name` depends on directly; none when apt does not know it."""
    if find_version(name) is None:
        return []
    said = run_tool(
        ["apt-cache", "depends", "--no-recommends", "--no-suggests", name],
        purpose=f"look up what {name} depends on",
        timeout=_RESOLVE_TIMEOUT,
    )
    return re.findall(r"^\s*Depends: (\S+)$", said.decode(), re.MULTILINE)


def download(packages: Sequence[Package], directory: Path) -> list[Path]:
    """Fetch the package files into `directory`; apt checks their signatures and hashes. Returns their paths, sorted."""
    run_tool(
        # Downloading as the user _apt fails in a directory that only we can write, and apt says so at length.
        ["apt-get", "-o", "APT::Sandbox::User=root", "--quiet", "download", *map(str, packages)],
        purpose=f"download {len(packages)} packages",
        timeout=_DOWNLOAD_TIMEOUT,
        cwd=directory,
    )
    return sorted(directory.glob("*.deb"))


def read_archive(deb: Path) -> bytes:
    """The files of a package as a tar archive."""
    return run_tool(["dpkg-deb", "--fsys-tarfile", str(deb)], purpose=f"unpack {deb.name}", timeout=300)
