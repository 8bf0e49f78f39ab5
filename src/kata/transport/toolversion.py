"""What a tool prints for `--version`, asked once for each file and kept."""

import os
import subprocess

from kata.errors import HostError
from kata.sys.kept import keep_answer, recall_answer


def ask_version(path: str, state_directory: str | None) -> str:
    """The first line that the tool at `path` prints for --version.

    Kept in `state_directory` (None: asked each time), by the identity of the file, because it costs a process each
    time. Raise HostError when it does not run.
    """
    status = os.stat(path)
    key = f"{path} {status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    name = f"version-{os.path.basename(path)}"
    if kept := recall_answer(state_directory, name, key).get("version"):
        return str(kept)
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"{path} --version did not run: {error}") from error
    version = (done.stdout or done.stderr).partition("\n")[0][:200]
    if version:
        keep_answer(state_directory, name, key, {"version": version})
    return version
