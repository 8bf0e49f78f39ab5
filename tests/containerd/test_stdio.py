"""Where a container's output goes when it is no FIFO."""

import time
from pathlib import Path

from containerd.daemon import RUNTIME, Containerd
from containerd.images import IMAGE

_LOGGER = """#!/usr/bin/python3 -IS
import os, sys
os.close(5)
with open(sys.argv[sys.argv.index("to") + 1], "wb") as file:
    for descriptor in (3, 4):
        while data := os.read(descriptor, 100):
            file.write(data)
    file.write(f"{os.environ['CONTAINER_ID']} {os.environ['CONTAINER_NAMESPACE']}".encode())
"""


def _run_logged(daemon: Containerd, uri: str) -> str:
    name = daemon.name("logged")
    words = ("sh", "-c", "echo out; echo err >&2")
    daemon.succeed("run", "-d", "--runtime", RUNTIME, "--log-uri", uri, IMAGE, name, *words)
    deadline = time.monotonic() + 20
    while daemon.find_status(name) != "STOPPED":
        assert time.monotonic() < deadline
    daemon.succeed("tasks", "delete", name)
    daemon.succeed("containers", "rm", name)
    return name


def test_output_goes_to_a_file_or_to_a_logging_program(current: Containerd, tmp_path: Path) -> None:
    logger = tmp_path / "logger"
    logger.write_text(_LOGGER)
    logger.chmod(0o755)
    _run_logged(current, f"file://{tmp_path}/new/log")
    name = _run_logged(current, f"binary://{logger}?to={tmp_path}/taken")

    assert sorted((tmp_path / "new/log").read_text().split()) == ["err", "out"]
    assert (tmp_path / "taken").read_text() == f"out\nerr\n{name} {current.token}"
