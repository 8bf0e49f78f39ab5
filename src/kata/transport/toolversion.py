"""What a tool prints for `--version`, asked once for each file and kept."""

import json
import os
import subprocess
from contextlib import suppress

from kata.errors import HostError


def ask_version(path: str, state_directory: str | None) -> str:
    """The first line that the tool at `path` prints for --version.

    Kept in `state_directory` (None: asked each time), by the identity of the file, because it costs a process each
    time. Raise HostError when it does not run.
    """
    status = os.stat(path)
    key = f"{path} {status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    name = os.path.basename(path)
    cache = None if state_directory is None else os.path.join(state_directory, f"version-{name}.json")
    if cache is not None:
        # Absent, half written or of another file: ask.
        with suppress(OSError, ValueError, KeyError, TypeError), open(cache, encoding="utf-8") as file:
            kept = json.load(file)
            if kept["key"] == key:
                return str(kept["version"])
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"{path} --version did not run: {error}") from error
    version = (done.stdout or done.stderr).partition("\n")[0][:200]
    if cache is not None and version:
        # A directory that cannot be written means asking again next time.
        with suppress(OSError):
            os.makedirs(os.path.dirname(cache), mode=0o700, exist_ok=True)
            fresh = f"{cache}.{os.getpid()}"
            with open(fresh, "w", encoding="utf-8") as file:
                json.dump({"key": key, "version": version}, file)
            os.replace(fresh, cache)
    return version
