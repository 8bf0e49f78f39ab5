"""Measurements of this machine that are made by a process of their own: a module whose `main` prints a JSON object."""

import json
import os
import subprocess
import sys

_START = (
    "import importlib, sys; sys.path.insert(0, sys.argv[1]); "
    "sys.exit(importlib.import_module(sys.argv[2]).main(*map(float, sys.argv[3:])))"
)


def run_probe(module: str, *numbers: float, timeout: float) -> dict[str, object]:
    """Return what a module's `main` printed, which gets these numbers, or `{"error": why}` where that is no object.

    Raise TimeoutError after `timeout` seconds.
    """
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    argv = [sys.executable, "-I", "-S", "-c", _START, folder, module, *map(str, numbers)]
    try:
        done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{module} took more than {timeout:g} s") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return {"error": f"the probe ended with status {done.returncode}"}
    return answer if isinstance(answer, dict) else {"error": "the probe gave no answer"}
