"""The suite of C programs beside this file: built into one static program."""

import subprocess
from pathlib import Path


def build_suite(directory: Path) -> Path:
    """Compile the suite in a directory and return the program. Raise CalledProcessError, FileNotFoundError."""
    program = directory / "posixfs"
    sources = sorted(Path(__file__).parent.glob("*.c"))
    subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, *sources], check=True)
    return program
