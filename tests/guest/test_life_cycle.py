"""create, start, state, kill, pause, update, delete: what an engine asks for, and what it is told."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from engine import Container, Engine, combine, kill_process, wait_for_child


def wait_for_status(container: Container, status: str) -> None:
    deadline = time.monotonic() + 10
    while container.find_status() != status:
        assert time.monotonic() < deadline, f"{container.id} did not become {status}"


def limit(**resources: Any) -> Any:
    return lambda spec: spec["linux"]["resources"].update(resources)


def test_a_container_alone_goes_through_its_life(engine: Engine) -> None:
    with engine.hold("sh", "-c", "echo started; exec sleep 1000", start=False) as held:
        state = engine.find_state(held.id)
        assert (state["status"], state["pid"], state["bundle"]) == ("created", held.pid, str(held.bundle))
        assert held.out.read_text() == ""
        engine.succeed("start", held.id)
        assert held.find_status() == "running"
        assert engine.run("start", held.id).code == 1
        assert "not stopped" in engine.run("delete", held.id).err
        held.kill("KILL")
        assert held.wait() == 128 + signal.SIGKILL
        state = engine.find_state(held.id)
        assert (state["status"], state["pid"]) == ("stopped", 0)
        assert held.out.read_text() == "started\n"
        assert "not running" in engine.run("kill", held.id, "TERM").err
        engine.succeed("delete", held.id)
        gone = engine.run("state", held.id)
    assert gone.code == 1
    assert "does not exist" in gone.err


def test_an_id_is_taken_once(engine: Engine, pod: Container) -> None:
    result = engine.run("create", "--bundle", str(pod.bundle), pod.id)
    assert result.code == 1
    assert "already exists" in result.err
    assert pod.find_status() == "running"


def test_a_created_container_can_be_killed_and_deleted(engine: Engine, pod: Container) -> None:
    with engine.hold("sleep", "1000", pod=pod.id, start=False) as held:
        held.kill("KILL")
        assert held.wait() == 128 + signal.SIGKILL
        engine.succeed("delete", held.id)


@pytest.mark.parametrize("name", ["TERM", "SIGINT", "15"])
def test_a_container_without_a_handler_ends_of_a_signal(engine: Engine, pod: Container, name: str) -> None:
    """SIGINT would be dropped by the kernel for PID 1; only SIGTERM is made to work there, as engines stop with it."""
    script = "trap 'exit 8' INT; sleep 1000 & wait" if name == "SIGINT" else "sleep 1000 & wait"
    with engine.hold("sh", "-c", script, pod=pod.id) as held:
        held.ask("sh", "-c", "while ! pidof sleep; do :; done")
        held.kill(name)
        assert held.wait() == (8 if name == "SIGINT" else 128 + signal.SIGKILL)


def test_kill_all_reaches_every_process(engine: Engine, pod: Container) -> None:
    with (
        engine.hold("sh", "-c", "sleep 1000 & sleep 1000", pod=pod.id) as held,
        engine.start("exec", held.id, "sleep", "500") as extra,
    ):
        held.ask("sh", "-c", "until [ $(pidof sleep | wc -w) = 3 ]; do :; done")
        held.kill("--all", "KILL")
        assert held.wait() == 137
        assert extra.wait(10) == 137


def test_killing_what_stands_for_a_container_kills_it_in_the_guest(engine: Engine, pod: Container) -> None:
    with engine.hold("sleep", "4242", pod=pod.id) as held:
        kill_process(held.pid)
        wait_for_status(held, "stopped")


def test_a_paused_container_stands_still_until_it_is_resumed(engine: Engine, pod: Container) -> None:
    with engine.hold("sh", "-c", "while :; do echo tick; done", pod=pod.id) as held:
        engine.succeed("pause", held.id)
        assert held.find_status() == "paused"
        assert engine.run("exec", held.id, "true").code != 0
        engine.succeed("resume", held.id)
        assert held.find_status() == "running"
        size = held.out.stat().st_size
        deadline = time.monotonic() + 10
        while held.out.stat().st_size == size:
            assert time.monotonic() < deadline, "nothing moves after resume"
        engine.succeed("pause", held.id)
        held.kill("KILL")
        assert held.wait() == 137


def test_limits_of_the_spec_and_of_update_are_in_the_guests_cgroup(engine: Engine, pod: Container) -> None:
    limits = limit(memory={"limit": 64 << 20}, cpu={"quota": 50_000, "period": 100_000}, pids={"limit": 77})
    change = combine(limits, lambda spec: spec["linux"]["namespaces"].append({"type": "cgroup"}))
    names = [f"/sys/fs/cgroup/{name}" for name in ("memory.max", "cpu.max", "pids.max")]
    with engine.hold("sleep", "1000", pod=pod.id, change=change) as held:
        assert held.ask("cat", *names).splitlines() == [str(64 << 20), "50000 100000", "77"]
        engine.succeed("update", "--memory", str(96 << 20), "--cpu-quota", "20000", "--pids-limit", "33", held.id)
        assert held.ask("cat", *names).splitlines() == [str(96 << 20), "20000 100000", "33"]


def test_a_container_that_takes_too_much_memory_is_killed_and_the_engine_told(engine: Engine, pod: Container) -> None:
    change = limit(memory={"limit": 24 << 20, "swap": 24 << 20})
    with engine.hold("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", pod=pod.id, change=change) as held:
        assert held.wait() == 137
        deadline = time.monotonic() + 10
        while not (held.bundle / "oom").exists():
            assert time.monotonic() < deadline, "no word of the lack of memory"


def test_ps_lists_the_processes_of_the_container_alone(engine: Engine, pod: Container) -> None:
    with engine.hold("sleep", "3131", pod=pod.id) as held:
        table = engine.succeed("ps", held.id)
        assert "sleep 3131" in table
        assert "sleep 100000" not in table
        assert json.loads(engine.succeed("ps", "--format", "json", held.id)) == [1]


def test_statistics_are_those_of_the_guests_cgroup(engine: Engine, pod: Container) -> None:
    change = limit(memory={"limit": 64 << 20}, pids={"limit": 50})
    with engine.hold("sh", "-c", "sleep 1000 & sleep 1000", pod=pod.id, change=change) as held:
        held.ask("sh", "-c", "until [ $(pidof sleep | wc -w) = 2 ]; do :; done")
        event = json.loads(engine.succeed("events", "--stats", held.id))
    data = event["data"]
    assert (event["type"], event["id"]) == ("stats", held.id)
    assert data["memory"]["usage"]["limit"] == 64 << 20
    assert 0 < data["memory"]["usage"]["usage"] < 64 << 20
    assert (data["pids"]["current"], data["pids"]["limit"]) == (2, 50)
    assert data["cpu"]["usage"]["total"] > 0


def test_a_detached_exec_has_a_pid_whose_exit_code_is_the_processs(
    engine: Engine, pod: Container, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    engine.succeed("exec", "--detach", "--pid-file", str(pid_file), pod.id, "sh", "-c", "exit 6")
    assert wait_for_child(int(pid_file.read_text()), timeout=10) == 6


def test_containers_of_a_pod_share_the_kernel_and_not_their_files(engine: Engine, pod: Container) -> None:
    def share_memory(spec: dict[str, Any]) -> None:
        (mount,) = (one for one in spec["mounts"] if one["destination"] == "/dev/shm")
        mount.update(type="bind", source="/dev/shm", options=["rbind"])

    with (
        engine.hold("sleep", "1000", pod=pod.id, change=share_memory) as one,
        engine.hold("sleep", "1000", pod=pod.id, change=share_memory) as two,
    ):
        assert one.ask("cat", "/proc/sys/kernel/random/boot_id") == two.ask("cat", "/proc/sys/kernel/random/boot_id")
        one.ask("sh", "-c", "echo secret > /tmp/file")
        assert two.execute("cat", "/tmp/file").code == 1
        one.ask("sh", "-c", "echo shared > /dev/shm/file")
        assert two.ask("cat", "/dev/shm/file") == "shared\n"
    assert not Path("/dev/shm/file").exists(), "the host's own memory was shared"


def test_a_member_of_a_pod_that_is_not_there_is_refused(engine: Engine) -> None:
    result = engine.run_container("true", pod=f"{engine.token}-nobody")
    assert result.code == 1
    assert "does not exist" in result.err


@pytest.mark.parametrize("name", ["../up", "a/b", "..", ".", "", "a b", "a\nb", "x" * 300, "ä"])
def test_an_id_that_could_be_a_path_is_refused(engine: Engine, pod: Container, name: str) -> None:
    for words in (("create", "--bundle", str(pod.bundle)), ("state",), ("delete", "--force"), ("kill",)):
        result = engine.run(*words, "--", name) if name.startswith("-") else engine.run(*words, name)
        assert result.code == 1, (words, result)
        assert "invalid container ID format" in result.err or "cannot be empty" in result.err, result.err


def test_a_process_that_names_itself_badly_cannot_steer_the_terminal_of_ps(engine: Engine, pod: Container) -> None:
    with engine.hold("sh", "-c", "sleep 1000; true", "evil\n\x1b[31m 0 1 2 root", pod=pod.id) as held:
        table = engine.succeed("ps", held.id)
    assert "\x1b" not in table
    header, init, *children = table.splitlines()
    assert header.split() == ["UID", "PID", "PPID", "CMD"]
    assert "evil??[31m" in init
    assert all(line.endswith("sleep 1000") for line in children), table
