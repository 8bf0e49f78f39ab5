"""Finding QEMU and its version."""

import re
from typing import NamedTuple

from kata.errors import HostError, NotFoundError, UnsupportedError
from kata.sys.program import find_program
from kata.transport.toolversion import ask_version

OLDEST = (7, 2)
_VERSION = re.compile(r"QEMU emulator version (\d+)\.(\d+)(?:\.(\d+))?")


class QemuBinary(NamedTuple):
    """A usable QEMU."""

    path: str
    version: tuple[int, int, int]


def parse_version(text: str) -> tuple[int, int, int] | None:
    """The version in what `qemu-system-… --version` prints, or None."""
    match = _VERSION.search(text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def find_binary(path: str, state_directory: str | None) -> QemuBinary:
    """The QEMU at a path, or of that name on PATH.

    Raise NotFoundError when there is none, UnsupportedError when it is too old.
    """
    found = find_program(path)
    if found is None:
        raise NotFoundError(
            f"there is no QEMU at {path}", hint="install qemu-system-x86, or set path in [hypervisor.qemu]"
        )
    printed = ask_version(found, state_directory)
    version = parse_version(printed)
    if version is None:
        raise HostError(f"{found} --version printed no version of QEMU but {printed!r}")
    if version < OLDEST:
        shown = ".".join(map(str, version))
        raise UnsupportedError(f"QEMU {shown} at {found} is too old", hint="7.2 or newer is needed")
    return QemuBinary(found, version)
