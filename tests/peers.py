"""The programs of other projects that tests drive the runtime with: where they are, or why a test is skipped.

Looked for in $KATA_TEST_BIN (and its folder v<version>), then in what tools/build-peer built, then on the PATH.
"""

import os
import shutil
import tomllib
from pathlib import Path

import pytest

_PEERS = tomllib.loads((Path(__file__).parents[1] / "tools" / "peers.toml").read_text())


def list_versions(peer: str) -> list[str]:
    """Return the versions of a peer that tests are to run with: the default one first."""
    versions: list[str] = _PEERS[peer]["versions"]
    return versions


def find_program(peer: str, program: str, version: str = "") -> str | None:
    """Return the path of a program of a peer of tools/peers.toml, None when it is nowhere.

    `version` is one of the peer's, its default when empty. The PATH counts only for a peer that may be of any version.
    """
    known = _PEERS[peer]
    version = version or known["versions"][0]
    cache = Path(os.environ.get("KATA_CACHE", "/var/cache/kata-containers"))
    folders = [str(cache / "peers" / f"{peer}-{version}" / "bin")]
    if given := os.environ.get("KATA_TEST_BIN"):
        folders.insert(0, f"{given}/v{version}")
        if known["any_version"]:
            folders.insert(1, given)
    if known["any_version"]:
        folders.append(os.environ.get("PATH", os.defpath))
    return shutil.which(program, path=os.pathsep.join(folders))


def require_program(peer: str, program: str, version: str = "") -> str:
    """Return the path of a program as `find_program` does; skip the test when there is none."""
    found = find_program(peer, program, version)
    if found is None:
        wanted = peer + (f"@{version}" if version else "")
        pytest.skip(f"MISSING {program}: nothing is tested with {peer}; run tools/build-peer {wanted}")
    return found


def require_installed(program: str) -> str:
    """Return the path of a program of a Debian package; skip the test when it is missing."""
    found = shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")))
    if found is None:
        pytest.skip(f"MISSING {program}: run tools/install-host-packages test")
    return found
