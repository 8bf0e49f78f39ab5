"""What is installed in the lab, as a user configures it: the hypervisors that runtimes' names and handlers choose."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

_ETC = Path("/etc/kata-containers")
_INSTALLED = Path("/usr/local/share/defaults/kata-containers")
_VM = """image = "/usr/local/share/kata-containers/kata-containers-debug.img"
default_memory = 512
"""
"""With a shell for the console."""

_OTHERS = {"agent.kata": "debug_console_enabled = true\n", "factory": "enable_template = false\n"}


class Flavour(NamedTuple):
    """`name` is what it adds to the runtime's name, `file` its configuration's, `vmm` the program."""

    name: str
    file: str
    vmm: str


FLAVOURS = {
    "qemu": Flavour("qemu", "configuration.toml", "qemu-system-x86_64"),
    "clh": Flavour("clh", "configuration-clh.toml", "cloud-hypervisor"),
    "firecracker": Flavour("fc", "configuration-fc.toml", "firecracker"),
}
"""By the driver's name."""


@contextmanager
def configure_installed() -> Iterator[None]:
    """Have files in /etc during the block that change the installed ones as a user does; skip outside the lab."""
    if not os.environ.get("KATA_LAB"):
        pytest.skip("NOT IN THE LAB: neither KVM nor what is installed is this tree's; make test-lab")
    _ETC.mkdir()
    try:
        for driver, flavour in FLAVOURS.items():
            text = (_INSTALLED / flavour.file).read_text()
            for table, lines in {f"hypervisor.{driver}": _VM, **_OTHERS}.items():
                text = _add_lines(text, f"[{table}]\n", lines)
            (_ETC / flavour.file).write_text(text)
        yield
    finally:
        shutil.rmtree(_ETC)


def _add_lines(text: str, table: str, lines: str) -> str:
    """Return a configuration with these lines in a table, which it may not have yet."""
    return text.replace(table, table + lines) if table in text else text + table + lines


def require_flavour(driver: str) -> Flavour:
    """Return the flavour of a driver; skip the test without its VMM."""
    flavour = FLAVOURS[driver]
    if shutil.which(flavour.vmm) is None:
        pytest.skip(f"NO {flavour.vmm} in the lab")
    return flavour


def list_vmms() -> list[tuple[int, str]]:
    """Return the VMMs that run, by pid; a jailed one has nothing else by which it is known from outside."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            name = path.read_text().strip()
        except OSError:  # it has ended
            continue
        # The kernel keeps 15 characters of a name.
        vmms = (flavour.vmm for flavour in FLAVOURS.values())
        found += [(int(path.parent.name), vmm) for vmm in vmms if name and vmm[:15] == name]
    return found
