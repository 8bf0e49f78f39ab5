"""The stand-in as conmon sees it: its pid, its end, its descriptors."""

import os
import signal
import subprocess
from pathlib import Path

from unit.cli.runtime import Runtime


def create(runtime: Runtime, args: list[str], pid_file: Path) -> int:
    runtime.succeed("create", "-b", str(runtime.make_bundle(args)), "--pid-file", str(pid_file), "c1")
    return int(pid_file.read_text())


def test_it_is_reparented_to_the_subreaper_and_ends_with_the_exit_code(
    runtime: Runtime, tmp_path: Path, subreaper: None
) -> None:
    pid = create(runtime, ["sh", "-c", "exit 42"], tmp_path / "pid")
    runtime.succeed("start", "c1")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 42


def test_death_by_signal_is_128_and_its_number(runtime: Runtime, tmp_path: Path, subreaper: None) -> None:
    pid = create(runtime, ["sleep", "60"], tmp_path / "pid")
    runtime.succeed("start", "c1")
    runtime.succeed("kill", "c1", "SIGTERM")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM


def test_killing_it_kills_the_container(runtime: Runtime, tmp_path: Path, subreaper: None) -> None:
    pid = create(runtime, ["sleep", "60"], tmp_path / "pid")
    runtime.succeed("start", "c1")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    runtime.wait_for_status("c1", "stopped")


def test_a_signal_to_it_reaches_the_process(runtime: Runtime, tmp_path: Path, subreaper: None) -> None:
    ready = tmp_path / "ready"
    script = f"trap 'exit 6' HUP; : > {ready}; while :; do sleep 0.05; done"
    pid = create(runtime, ["sh", "-c", script], tmp_path / "pid")
    runtime.succeed("start", "c1")
    runtime.wait_for_file(ready)
    os.kill(pid, signal.SIGHUP)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 6


def test_it_ends_with_255_when_the_daemon_is_killed(runtime: Runtime, tmp_path: Path, subreaper: None) -> None:
    pid = create(runtime, ["sleep", "60"], tmp_path / "pid")
    runtime.kill_daemon("c1")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 255


def test_no_descriptor_of_the_engine_survives_create(runtime: Runtime, tmp_path: Path, subreaper: None) -> None:
    """conmon waits for the end of pipes that it gave to nobody on purpose."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    bundle = runtime.make_bundle(["sleep", "60"])
    command = runtime.command("create", "-b", str(bundle), "--pid-file", str(tmp_path / "pid"), "c1")
    with subprocess.Popen(
        command, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as creating:
        os.close(writer)
        assert creating.wait(20) == 0
        assert os.read(reader, 1) == b"", "the stand-in or the daemon holds the engine's pipe"
        runtime.succeed("start", "c1")
        runtime.succeed("kill", "c1", "9")
        assert creating.stdout is not None
        assert creating.stdout.read() == b""
    os.close(reader)
    pid = int((tmp_path / "pid").read_text())
    os.waitpid(pid, 0)


def test_it_holds_its_connection_and_its_signal_pipe_only(runtime: Runtime, tmp_path: Path, subreaper: None) -> None:
    pid = create(runtime, ["sleep", "60"], tmp_path / "pid")
    runtime.succeed("start", "c1")
    links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    assert sorted(link.partition(":")[0] for link in links) == ["/dev/null"] * 3 + ["pipe", "pipe", "socket"]
    assert Path(f"/proc/{pid}/comm").read_text() == "kata-stand-in\n"
    runtime.succeed("delete", "-f", "c1")
    os.waitpid(pid, 0)
