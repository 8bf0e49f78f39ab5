"""create, start, state, kill, delete, as an engine calls them."""

import json
import os
import signal
import time
from pathlib import Path

from unit.cli.runtime import Runtime


def wait_for_status(runtime: Runtime, container: str, status: str) -> None:
    deadline = time.monotonic() + 10
    while runtime.find_state(container)["status"] != status:
        assert time.monotonic() < deadline, f"{container} did not become {status}"


def test_a_container_goes_through_its_life(runtime: Runtime, tmp_path: Path) -> None:
    bundle = runtime.make_bundle(["sleep", "60"])
    pid_file = tmp_path / "pid"
    runtime.succeed("create", "--bundle", str(bundle), "--pid-file", str(pid_file), "c1")
    state = runtime.find_state("c1")
    assert state["status"] == "created"
    assert state["bundle"] == str(bundle)
    assert state["pid"] == int(pid_file.read_text())
    runtime.succeed("start", "c1")
    assert runtime.find_state("c1")["status"] == "running"
    runtime.succeed("kill", "c1", "KILL")
    wait_for_status(runtime, "c1", "stopped")
    assert runtime.find_state("c1")["pid"] == 0
    runtime.succeed("delete", "c1")
    assert "does not exist" in runtime.run("state", "c1").stderr
