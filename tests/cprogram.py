"""Small programs in C for containers that have no more than busybox: programs/*.c."""

import os
import subprocess
from pathlib import Path

_SOURCES = Path(__file__).parent / "programs"
LAB_PROGRAMS = "lab/programs"
"""Where the lab, which has no compiler, has all of them, below its root."""


def compile_program(directory: Path, name: str) -> Path:
    """Return a static program of a directory, or the lab's. Raise CalledProcessError."""
    if os.environ.get("KATA_LAB"):
        return Path("/", LAB_PROGRAMS, name)
    program = directory / name
    subprocess.run(["gcc", "-static", "-Os", "-o", program, _SOURCES / f"{name}.c"], check=True, timeout=60)
    return program


def compile_all(directory: Path) -> None:
    """Compile all of them into a directory. Raise CalledProcessError."""
    directory.mkdir(parents=True)
    for source in sorted(_SOURCES.glob("*.c")):
        compile_program(directory, source.stem)
