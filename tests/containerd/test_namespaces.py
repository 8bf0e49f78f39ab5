"""Namespaces of containerd that have a container of the same id each."""

import os
import subprocess
from pathlib import Path

from containerd.daemon import RUNTIME, Containerd
from containerd.images import IMAGE

_SOURCE = str(Path(__file__).parents[2] / "src")
_PROGRAM = "import sys; sys.path.insert(0, {!r}); from kata.cli.main import main; sys.exit(main())"


def _run_kata(*words: str) -> str:
    command = ["/usr/bin/python3", "-IS", "-c", _PROGRAM.format(_SOURCE), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def test_the_same_id_in_two_namespaces_is_two_sandboxes_and_each_is_found_by_name(current: Containerd) -> None:
    name = current.name("twin")
    other = ("--namespace", f"{current.token}-other")
    current.succeed(*other, "images", "import", str(current.place / "image.tar"))
    with current.hold("sleep", "1000", name=name):
        current.succeed(*other, "run", "-d", "--runtime", RUNTIME, IMAGE, name, "sleep", "1000")
        try:
            keys = {f"{name}+{current.token}", f"{name}+{current.token}-other"}
            assert keys <= set(os.listdir("/run/kata/sandboxes"))
            assert _run_kata("list", "-q").split().count(name) == 2
            assert all(_run_kata("logs", key) for key in keys)
        finally:
            current.run(*other, "tasks", "delete", "--force", name)
            current.succeed(*other, "containers", "rm", name)
        assert current.execute(name, "echo", "alive").out == "alive\n"
        assert _run_kata("logs", name)
    current.succeed(*other, "images", "rm", IMAGE)
