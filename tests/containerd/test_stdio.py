"""Where a container's output goes, and clients that come back to its terminal."""

import signal
import time
from pathlib import Path

from containerd.daemon import RUNTIME, Containerd
from containerd.images import IMAGE
from podman.engine import Terminal

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


def test_a_terminal_is_attached_again_after_its_client_and_containerd_were_killed(current: Containerd) -> None:
    name = current.name("terminal")
    command = current.command("run", "-t", "--runtime", RUNTIME, IMAGE, name, "sh")
    with Terminal(command=command, rows=33, columns=99) as terminal:
        terminal.type("stty size; echo in$((3))\n")
        terminal.expect("33 99")
        terminal.expect("in3")
        terminal.resize(44, 111)
        terminal.process.send_signal(signal.SIGWINCH)  # ctr's controlling terminal would do that, and it has none
        terminal.type("kept=here; until [ \"$(stty size)\" = '44 111' ]; do sleep 0.1; done; echo resized$((1))\n")
        terminal.expect("resized1", timeout=15)
        terminal.process.kill()
    current.kill()
    current.start()

    with Terminal(command=current.command("tasks", "attach", name), rows=22, columns=77) as terminal:
        terminal.type("echo still $kept; exit 6\n")
        terminal.expect("still here")
        assert terminal.wait() == 6
    current.run("tasks", "delete", name)
    current.succeed("containers", "rm", name)
