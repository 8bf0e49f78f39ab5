"""What goes into L1: this tree, the tools of its tests, the guest's artefacts, the VMMs that this machine has."""

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

from peers import find_program

TREE = Path(__file__).parents[2]
_ARTEFACTS = Path(os.environ.get("KATA_ARTEFACTS", "/usr/local/share/kata-containers"))
_FOLDERS = ("src", "tests", "docs", "packaging", "tools", "pyproject.toml")
_LIBRARIES = (
    "pytest", "_pytest", "py.py", "pluggy", "iniconfig", "packaging", "pygments", "pytest_asyncio",
    "pytest_timeout.py", "typing_extensions.py", "hypothesis", "_hypothesis_globals.py", "sortedcontainers",
)  # fmt: skip
_VMMS = ("cloud-hypervisor", "firecracker", "jailer")
_CRICTL = ("cri-tools", "crictl")
_PROGRAMS = "usr/local/bin"
REPORT = "junit.xml"
GUEST = "usr/local/share/kata-containers"
_SITE = "lab/site"
_PLUGINS = "-p pytest_asyncio.plugin -p pytest_timeout"


def find_vmm(name: str) -> Path | None:
    """Return a VMM that is no package of Debian's: in KATA_TEST_BIN, on the PATH, or where `make lab` keeps its own."""
    places = (os.environ.get("KATA_TEST_BIN", ""), os.environ.get("PATH", ""), "/var/cache/kata-containers/lab-bin")
    found = shutil.which(name, path=os.pathsep.join(place for place in places if place))
    return Path(found) if found else None


class Run(NamedTuple):
    """One run of pytest in an L1 of its own. With a `driver` sandboxes are started with that one."""

    name: str
    arguments: tuple[str, ...]
    driver: str = ""


def write_job(target: Path, stage: Path, run: Run, *, limit: int) -> None:
    """Write the tar: `stage` is laid over L1's root, `limit` is the seconds that the run may take."""
    site = Path(pytest.__file__).parents[1]
    with tarfile.open(target, "w:") as archive:
        for name in _FOLDERS:
            archive.add(TREE / name, f"lab/tree/{name}")
        for name in (*_LIBRARIES, *(path.name for path in site.glob("*.dist-info"))):
            if (site / name).exists():
                archive.add(site / name, f"{_SITE}/{name}")
        for name in ("vmlinux.container", "vmlinuz.container"):
            archive.add(_ARTEFACTS / name, f"{GUEST}/{name}")
        for path in sorted(stage.iterdir()):
            archive.add(path, path.name)
        for name in _VMMS:
            if vmm := find_vmm(name):
                archive.add(vmm.resolve(), f"{_PROGRAMS}/{name}")
        if any(word.startswith("tests/cri/") for word in run.arguments) and (crictl := find_program(*_CRICTL)):
            archive.add(crictl, f"{_PROGRAMS}/crictl")
        _add_text(archive, "lab/run", Path(__file__).with_name("run.sh").read_text())
        _add_text(archive, "lab/settings", f"LIMIT={limit}\n")
        _add_text(archive, "lab/job", _write_script(run))


def _write_script(run: Run) -> str:
    environment = f"PYTHONPATH=/{_SITE} KATA_LAB=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 KATA_TEST_HYPERVISOR={run.driver}"
    words = " ".join(f"'{word}'" for word in run.arguments)
    report = f"-o junit_family=xunit1 --junitxml=/lab/results/{REPORT}"
    # Not below /tmp, a tmpfs: the files of disks could not be read past the page cache.
    pytest = f"python3 -m pytest {_PLUGINS} -o cache_dir=/tmp/cache --basetemp=/lab/t {report} {words}"
    return f"export {environment}\nexec {pytest}\n"


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(text.encode()), 0o755
    archive.addfile(member, io.BytesIO(text.encode()))
