"""Small programs in C for containers that have no more than busybox."""

import subprocess
from pathlib import Path


def compile_program(directory: Path, name: str, source: str) -> Path:
    """Return a static program in a directory. Raise CalledProcessError."""
    program = directory / name
    (directory / f"{name}.c").write_text(source)
    subprocess.run(["gcc", "-static", "-Os", "-o", program, f"{program}.c"], check=True, timeout=60)
    return program
