"""Finding a program, without shutil: it imports every compressor that Python has (3 ms)."""

import os


def find_program(name: str, *, path: str | None = None) -> str | None:
    """The first executable file of this name on PATH; a name with a slash is looked at where it is. None: no such."""
    folders = [""] if "/" in name else (path or os.environ.get("PATH", os.defpath)).split(":")
    for folder in folders:
        candidate = os.path.join(folder, name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None
