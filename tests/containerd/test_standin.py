"""The process that stands for a container on the host: clients look into it by its pid."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd.daemon import Containerd
from containerd.events import watch_events
from engine import kill_process


@pytest.fixture(scope="module")
def sleeper(current: Containerd) -> Iterator[str]:
    with current.hold("sleep", "1000") as name:
        yield name


def _find_root(daemon: Containerd, container: str) -> Path:
    return Path(f"/proc/{daemon.find_pid(container)}/root")


def test_files_are_found_and_put_in_the_containers_root_by_the_pid(current: Containerd, sleeper: str) -> None:
    root = _find_root(current, sleeper)
    current.succeed("tasks", "exec", "--exec-id", "write", sleeper, "sh", "-c", "echo inside > /written")
    (root / "put").write_text("from the host\n")

    assert (root / "written").read_text() == "inside\n"
    assert current.execute(sleeper, "cat", "/put").out == "from the host\n"


def test_nothing_of_the_host_is_reached_by_the_pid(current: Containerd, sleeper: str) -> None:
    root = _find_root(current, sleeper)
    marker = Path(f"/tmp/{secrets.token_hex(8)}")
    marker.touch()
    try:
        assert not (root / marker.relative_to("/")).exists()
        assert not (root / ".." / marker.relative_to("/")).exists()
        assert not (root / "proc/self").exists()
    finally:
        marker.unlink()
    mounts = (root.parent / "mountinfo").read_text().splitlines()
    assert [line.split()[4] for line in mounts] == ["/"]


def test_the_pid_is_in_the_network_namespace_of_its_shim(current: Containerd, sleeper: str) -> None:
    stand_in, shim = current.find_pid(sleeper), current.find_shim(sleeper)

    assert os.readlink(f"/proc/{stand_in}/ns/net") == os.readlink(f"/proc/{shim}/ns/net")
    assert os.readlink(f"/proc/{stand_in}/ns/net") != os.readlink("/proc/self/ns/net")


def test_a_root_that_is_read_only_is_so_by_the_pid_too(current: Containerd) -> None:
    with current.hold("sleep", "1000", flags=("--read-only",)) as name, pytest.raises(OSError, match="Read-only"):
        (_find_root(current, name) / "put").touch()


def test_a_container_is_killed_by_its_pid(current: Containerd) -> None:
    with watch_events(current) as events, current.hold("sleep", "1000") as name:
        kill_process(current.find_pid(name))

        assert '"exit_status":137' in events.wait_for("/tasks/exit", name)
        assert current.find_status(name) == "STOPPED"


def test_the_pid_ends_with_its_container(current: Containerd) -> None:
    with watch_events(current) as events, current.hold("sleep", "1000") as name:
        pid = current.find_pid(name)
        current.succeed("tasks", "kill", "--signal", "KILL", name)
        events.wait_for("/tasks/exit", name)

        assert not Path(f"/proc/{pid}").exists()
