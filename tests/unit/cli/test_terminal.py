"""Terminals: the pair for an engine's console socket, the user's own, sizes."""

import fcntl
import os
import pty
import select
import socket
import struct
import subprocess
import termios
import time
from pathlib import Path

from unit.cli.runtime import Runtime


def set_size(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def receive_master(listener: socket.socket) -> tuple[str, int]:
    connection, _ = listener.accept()
    with connection:
        name, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
    return name.decode(), descriptors[0]


def read_until(terminal: int, wanted: bytes) -> bytes:
    data = b""
    deadline = time.monotonic() + 15
    while wanted not in data:
        ready, _, _ = select.select([terminal], [], [], deadline - time.monotonic())
        assert ready, data
        data += os.read(terminal, 4096)
    return data


def wait_for_size(runtime: Runtime, bundle: Path, size: list[int]) -> None:
    runtime.wait(
        lambda: {"resize": size} in (runtime.read_seen(bundle) if (bundle / "seen").exists() else []), str(size)
    )


def test_an_engine_gets_the_master_and_its_resizes_reach_the_process(
    runtime: Runtime, tmp_path: Path, subreaper: None
) -> None:
    bundle = runtime.make_bundle(["cat"], terminal=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen()
        pid_file = tmp_path / "pid"
        words = ["-b", str(bundle), "--console-socket", str(tmp_path / "console"), "--pid-file", str(pid_file)]
        runtime.succeed("create", *words, "c1")
        name, master = receive_master(listener)
    assert name == "/dev/ptmx"
    runtime.succeed("start", "c1")
    set_size(master, 33, 99)
    wait_for_size(runtime, bundle, [33, 99])
    os.write(master, b"\x03line\r")
    assert read_until(master, b"\r") == b"\x03line\r", "the host's terminal must not interpret what passes"
    pid = int(pid_file.read_text())
    assert os.getsid(pid) == pid
    runtime.succeed("kill", "c1", "KILL")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 137
    os.close(master)


def test_the_users_own_terminal_is_raw_while_the_process_runs_and_restored_after(runtime: Runtime) -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    set_size(master, 11, 22)
    bundle = runtime.make_bundle(["sh", "-c", "echo ready; cat"], terminal=True)
    command = runtime.command("run", "-b", str(bundle), "c1")
    with subprocess.Popen(
        ["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave, close_fds=True
    ) as running:
        read_until(master, b"ready")
        wait_for_size(runtime, bundle, [11, 22])
        assert termios.tcgetattr(slave)[3] & (termios.ECHO | termios.ICANON | termios.ISIG) == 0
        set_size(master, 44, 55)
        wait_for_size(runtime, bundle, [44, 55])
        runtime.succeed("kill", "c1", "KILL")
        assert running.wait(20) == 137
    assert termios.tcgetattr(slave) == before
    assert os.get_blocking(slave)
    os.close(master)
    os.close(slave)


def test_the_users_terminal_is_restored_when_the_daemon_is_killed(runtime: Runtime) -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    set_size(master, 7, 8)
    bundle = runtime.make_bundle(["cat"], terminal=True)
    with subprocess.Popen(
        runtime.command("run", "--keep", "-b", str(bundle), "c1"), stdin=slave, stdout=slave
    ) as running:
        wait_for_size(runtime, bundle, [7, 8])
        runtime.kill_daemon("c1")
        assert running.wait(20) == 255
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_a_terminal_without_a_console_socket_is_refused_when_detached(runtime: Runtime) -> None:
    bundle = runtime.make_bundle(["cat"], terminal=True)
    done = runtime.run("create", "-b", str(bundle), "c1")
    assert "will detach without setting console socket" in done.stderr
    assert not (runtime.root / "sandboxes").exists()


def test_a_console_socket_without_a_terminal_is_refused(runtime: Runtime) -> None:
    done = runtime.run("create", "-b", str(runtime.make_bundle(["cat"])), "--console-socket", "/nowhere", "c1")
    assert "cannot use console socket" in done.stderr


def test_a_console_socket_that_nobody_listens_on_is_an_error(runtime: Runtime, tmp_path: Path) -> None:
    bundle = runtime.make_bundle(["cat"], terminal=True)
    done = runtime.run("create", "-b", str(bundle), "--console-socket", str(tmp_path / "none"), "c1")
    assert done.returncode == 1
    assert "cannot be sent to the console socket" in done.stderr


def test_a_terminal_where_there_is_none_is_refused(runtime: Runtime) -> None:
    done = runtime.run("run", "-b", str(runtime.make_bundle(["cat"], terminal=True)), "c1")
    assert "none of standard input, output and error is one" in done.stderr
