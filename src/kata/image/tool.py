"""Running the programs that build: compilers, apt, mkfs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kata.errors import HostError

_TAIL_LINES = 15


def print_progress(message: str) -> None:
    print(f"kata-image: {message}", file=sys.stderr, flush=True)


def require_tools(tools: Mapping[str, str]) -> None:
    """Check that every program is on the PATH. `tools` maps a program to the Debian package that has it.

    Raises HostError naming all that are missing, so that one `apt-get install` settles it.
    """
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        packages = " ".join(sorted({tools[tool] for tool in missing}))
        raise HostError(
            f"programs needed to build are missing: {', '.join(missing)}", hint=f"apt-get install {packages}"
        )


def run_tool(
    argv: Sequence[str],
    *,
    purpose: str,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
) -> bytes:
    """Run a program to its end and give back its standard output.

    `purpose` completes the sentence "cannot …" for the operator; `timeout` is in seconds; `env` is added to our own
    environment. Raises HostError that quotes the end of what the program wrote.
    """
    environment = {**os.environ, "LC_ALL": "C", **(env or {})}
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, timeout=timeout, cwd=cwd, env=environment, check=False
        )
    except FileNotFoundError as error:
        raise HostError(f"cannot {purpose}: the program {argv[0]} does not exist") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"cannot {purpose}: {argv[0]} did not end within {timeout:g} s") from error
    if done.returncode != 0:
        said = (done.stderr.decode(errors="replace") or done.stdout.decode(errors="replace")).splitlines()
        tail = "\n".join(said[-_TAIL_LINES:])
        raise HostError(f"cannot {purpose}: {argv[0]} exited with status {done.returncode}", hint=f"it said:\n{tail}")
    return done.stdout
