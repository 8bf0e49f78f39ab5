"""exec: attached and detached, from flags and from a process.json."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from unit.cli.runtime import Runtime


@pytest.fixture
def container(runtime: Runtime) -> Path:
    """Start the container c1 and return its bundle."""
    bundle = runtime.make_bundle(["sleep", "60"])
    runtime.succeed("run", "-d", "-b", str(bundle), "c1")
    return bundle


def test_exec_passes_streams_and_exit_code(runtime: Runtime, container: Path) -> None:
    command = runtime.command("exec", "c1", "sh", "-c", "cat; exit 3")
    done = subprocess.run(command, input="in\n", capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (3, "in\n")


def test_exec_starts_from_the_container_and_takes_changes_from_flags(runtime: Runtime, container: Path) -> None:
    words = [
        "--cwd",
        "/tmp",
        "-e",
        "A=1",
        "--env=B=2",
        "-u",
        "7:8",
        "-g",
        "9",
        "--cap",
        "CAP_SYS_TIME",
        "--no-new-privs",
    ]
    runtime.succeed("exec", *words, "c1", "true", "--flag-of-true")
    process = runtime.read_seen(container)[-1]["exec"]
    assert process["args"] == ["true", "--flag-of-true"]
    assert process["cwd"] == "/tmp"
    assert process["env"][-2:] == ["A=1", "B=2"]
    assert process["user"] == {"uid": 7, "gid": 8, "additionalGids": [9]}
    assert "CAP_SYS_TIME" in process["capabilities"]["effective"]
    assert process["noNewPrivileges"] is True


def test_a_signal_that_comes_before_the_daemon_has_answered_is_forwarded(
    runtime: Runtime, container: Path, tmp_path: Path
) -> None:
    script = "trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.1; done"
    process = {"args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/usr/bin:/bin"], "awaited": str(tmp_path / "go")}
    (tmp_path / "process.json").write_text(json.dumps(process))
    command = runtime.command("exec", "-p", str(tmp_path / "process.json"), "c1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as exec_:
        assert exec_.stdout is not None
        assert exec_.stdout.readline() == "ready\n"
        exec_.send_signal(signal.SIGUSR1)
        (tmp_path / "go").touch()
        assert exec_.stdout.readline() == "got it\n"
        assert exec_.wait(timeout=30) == 5


def test_a_detached_exec_writes_the_pid_of_a_process_that_ends_with_its_exit_code(
    runtime: Runtime, container: Path, tmp_path: Path, subreaper: None
) -> None:
    process = {"args": ["sh", "-c", "exit 5"], "cwd": "/", "env": ["PATH=/usr/bin:/bin"]}
    (tmp_path / "process.json").write_text(json.dumps(process))
    pid_file = tmp_path / "pid"
    runtime.succeed("exec", "-d", "--pid-file", str(pid_file), "-p", str(tmp_path / "process.json"), "c1")
    _, status = os.waitpid(int(pid_file.read_text()), 0)
    assert os.waitstatus_to_exitcode(status) == 5


def test_killing_the_stand_in_of_an_exec_kills_its_process(
    runtime: Runtime, container: Path, tmp_path: Path, subreaper: None
) -> None:
    pid_file, inner = tmp_path / "pid", tmp_path / "inner"
    script = f"echo $$ > {inner}.new; mv {inner}.new {inner}; exec sleep 60"
    runtime.succeed("exec", "-d", "--pid-file", str(pid_file), "c1", "sh", "-c", script)
    runtime.wait_for_file(inner)
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    os.waitpid(int(pid_file.read_text()), 0)
    runtime.wait_for_end(int(inner.read_text()))


def test_a_command_that_is_not_there_is_status_255_and_leaves_no_stand_in(
    runtime: Runtime, container: Path, tmp_path: Path, subreaper: None
) -> None:
    done = runtime.run("exec", "-d", "--pid-file", str(tmp_path / "pid"), "c1", "no-such-command")
    assert done.returncode == 255
    assert "exec failed: " in done.stderr
    assert "executable file not found in $PATH" in done.stderr
    assert not (tmp_path / "pid").exists()
    attached = runtime.run("exec", "c1", "no-such-command")
    assert attached.returncode == 255


def test_exec_without_a_command_is_refused(runtime: Runtime, container: Path) -> None:
    done = runtime.run("exec", "c1")
    assert done.returncode == 255
    assert "process args cannot be empty" in done.stderr


def test_open_files_beyond_the_standard_streams_are_refused(runtime: Runtime, container: Path) -> None:
    assert "--preserve-fds cannot be honoured" in runtime.run("exec", "--preserve-fds", "1", "c1", "true").stderr
