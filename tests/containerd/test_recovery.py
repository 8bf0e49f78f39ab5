"""What containerd can still do when it, the shim, the VM or the guest has failed."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from containerd.daemon import Containerd
from containerd.events import watch_events
from containerd.shimcall import call_shim
from kata.errors import GuestError
from kata.protocol.messages import task
from kata.protocol.messages.types import Empty

_EVENT_LIMIT = 1.0
_HANG_LIMIT = 15.0


def _find_time(line: str) -> float:
    """Return when containerd was told: the time at the head of a line of `ctr events`, in seconds since 1970."""
    match = re.match(r"(\S+ [\d:]+)(\.\d+)? ", line)
    assert match, line
    return time.mktime(time.strptime(match[1], "%Y-%m-%d %H:%M:%S")) - time.timezone + float(match[2] or 0)


def test_a_containerd_that_was_killed_finds_its_containers_fully_manageable(current: Containerd) -> None:
    with current.hold("sleep", "1000") as name:
        before = current.find_pid(name)
        current.kill()
        current.start()

        assert current.find_pid(name) == before
        assert current.execute(name, "echo", "still here").out == "still here\n"
        current.succeed("tasks", "pause", name)
        assert current.find_status(name) == "PAUSED"
        current.succeed("tasks", "resume", name)
        assert json.loads(current.succeed("tasks", "metrics", "--format", "json", name))
    assert not current.find_traces(name)


def test_the_shims_lines_are_in_containerds_log_also_of_when_it_was_away(current: Containerd) -> None:
    with current.hold("sleep", "1000") as name:
        _wait_for_line(current, name, "Start took")
        current.kill()
        call_shim(current, name, "Connect", task.TaskRequest(id=name), task.ConnectResponse)
        with pytest.raises(GuestError):
            call_shim(current, name, "Pause", task.TaskRequest(id="unknown"), Empty)
        current.start()
        _wait_for_line(current, name, "Connect took")
        _wait_for_line(current, name, "Pause took")


def _wait_for_line(daemon: Containerd, sandbox: str, message: str) -> None:
    """Wait until containerd's log has a line of this sandbox's shim that begins with the message."""
    deadline = time.monotonic() + 30
    wanted = re.compile(f'"level": "debug", "msg": "{message}.*"sandbox": "{sandbox}"')
    while not wanted.search(text := (daemon.place / "containerd.log").read_text(errors="replace")):
        assert time.monotonic() < deadline, (message, [line for line in text.splitlines() if sandbox in line])


def test_an_exit_that_containerd_was_not_there_for_is_told_when_it_is_back(current: Containerd) -> None:
    log = current.place / "containerd.log"
    with current.hold("sleep", "1000") as name:
        qemu = current.find_process(name, "qemu-system")
        current.stop()
        os.kill(qemu, signal.SIGKILL)
        already = len(log.read_text())
        current.start()
        deadline = time.monotonic() + 20
        while not _is_forwarded(log, already, "/tasks/exit"):
            assert time.monotonic() < deadline, log.read_text()[-2000:]

        assert current.find_status(name) == "STOPPED"


def _is_forwarded(log: Path, offset: int, topic: str) -> bool:
    return any("event forwarded" in line and topic in line for line in log.read_text()[offset:].splitlines())


def test_the_exit_of_a_container_whose_vmm_was_killed_is_told_within_a_second(current: Containerd) -> None:
    with watch_events(current) as events, current.hold("sleep", "1000") as name:
        qemu = current.find_process(name, "qemu-system")
        killed = time.time()
        os.kill(qemu, signal.SIGKILL)
        line = events.wait_for("/tasks/exit", name)
        took = _find_time(line) - killed

        print(f"exit told {took * 1000:.0f} ms after the VMM was killed")
        assert took < _EVENT_LIMIT


def test_a_container_of_a_guest_that_hangs_is_killed_and_deleted_in_seconds(current: Containerd) -> None:
    with watch_events(current) as events, current.hold("sleep", "1000") as name:
        os.kill(current.find_process(name, "qemu-system"), signal.SIGSTOP)
        began = time.monotonic()
        current.succeed("tasks", "kill", "--signal", "SIGKILL", name)
        line = events.wait_for("/tasks/exit", name)
        current.run("tasks", "delete", name)
        took = time.monotonic() - began

        print(f"kill and delete of a guest that hangs took {took:.1f} s")
        assert '"exit_status":137' in line
        assert took < _HANG_LIMIT
        assert not current.find_traces(name)
