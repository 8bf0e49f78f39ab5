"""Bytes between the host and processes in the guest: all of them, in order, no more held than pipes hold."""

import fcntl
import hashlib
import os
import pty
import random
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

from engine import Container, Engine

MEBIBYTE = 1 << 20


def make_noise(size: int) -> bytes:
    return random.Random(4711).randbytes(size)


@contextmanager
def open_terminal(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """A pair of terminal ends of this size."""
    master, slave = pty.openpty()
    resize(slave, rows, columns)
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


def resize(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def read_until(descriptor: int, wanted: bytes, *, timeout: float = 20.0) -> bytes:
    """Read until `wanted` was seen or the other end is closed."""
    deadline, data = time.monotonic() + timeout, b""
    while wanted not in data:
        ready, _, _ = select.select([descriptor], [], [], deadline - time.monotonic())
        assert ready, f"{wanted!r} did not come, but {data!r}"
        try:
            part = os.read(descriptor, 65536)
        except OSError:
            part = b""
        if not part:
            break
        data += part
    return data


def test_binary_data_comes_back_unchanged_and_in_order(pod: Container) -> None:
    noise = make_noise(4 * MEBIBYTE)
    result = pod.execute("cat", stdin=noise)
    assert result.code == 0
    assert hashlib.sha256(result.out).digest() == hashlib.sha256(noise).digest()


def test_error_output_is_apart_from_output(pod: Container) -> None:
    result = pod.execute("sh", "-c", "for i in 1 2 3; do echo o$i; echo e$i >&2; done")
    assert (result.out, result.err) == (b"o1\no2\no3\n", "e1\ne2\ne3\n")


def test_a_process_that_waits_for_input_sees_its_end(pod: Container) -> None:
    assert pod.execute("sh", "-c", "wc -c; echo done", stdin=b"").text.split() == ["0", "done"]


def test_a_process_that_does_not_read_its_input_ends_all_the_same(pod: Container) -> None:
    result = pod.execute("true", stdin=make_noise(2 * MEBIBYTE))
    assert (result.code, result.out) == (0, b"")


def test_input_and_output_alternate_as_in_a_conversation(engine: Engine, pod: Container) -> None:
    with engine.start("exec", pod.id, "cat") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for word in (b"one\n", b"two\n", b"three\n"):
            process.stdin.write(word)
            process.stdin.flush()
            assert read_until(process.stdout.fileno(), b"\n") == word
        process.stdin.close()
        assert process.wait(20) == 0


def test_output_of_a_container_that_ends_at_once_is_whole(engine: Engine, pod: Container) -> None:
    result = engine.run_container("sh", "-c", "head -c 300000 /dev/zero; echo; echo end >&2", pod=pod.id)
    assert (result.code, len(result.out), result.err) == (0, 300_001, "end\n")


def test_a_slow_reader_holds_a_flood_back_and_then_gets_all_of_it(engine: Engine, pod: Container) -> None:
    script = "yes 123456789 | head -c 4000000"
    with engine.start("exec", pod.id, "sh", "-c", script) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        # Others are served while this one is stuck.
        assert pod.ask("echo", "still here") == "still here\n"
        rest = process.stdout.read()
        assert process.wait(20) == 0
    assert first + rest == b"123456789\n" * 400_000


def test_neither_guest_nor_daemon_grows_while_nobody_reads_a_flood(engine: Engine, pod: Container) -> None:
    daemon = engine.find_process("serve", pod.id)
    before = read_guest_memory(pod), read_host_resident(daemon)
    with engine.start("exec", pod.id, "yes", "0123456789") as flood:
        assert flood.stdout is not None
        flood.stdout.read(MEBIBYTE)
        # `yes` gets no further than what the pipes on the way hold: then it uses no more time.
        deadline, times = time.monotonic() + 20, [read_cpu_time(pod)]
        while len(times) < 2 or times[-1] != times[-2]:
            assert time.monotonic() < deadline, "the flood is not held back"
            times.append(read_cpu_time(pod))
        after = read_guest_memory(pod), read_host_resident(daemon)
        flood.kill()
    assert after[0] - before[0] < 8 * 1024, f"the guest grew from {before[0]} to {after[0]} KiB"
    assert after[1] - before[1] < 16 * 1024, f"the daemon grew from {before[1]} to {after[1]} KiB"


def read_guest_memory(pod: Container) -> int:
    """Anonymous memory of all processes of the guest, in KiB: the agent's and little else."""
    return int(pod.ask("grep", "AnonPages", "/proc/meminfo").split()[1])


def read_cpu_time(pod: Container) -> int:
    """Clock ticks that `yes` has used. Fields 14 and 15 of proc(5)'s stat."""
    fields = pod.ask("sh", "-c", "cat /proc/$(pidof yes)/stat").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def read_host_resident(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def test_a_terminal_has_the_size_of_the_hosts_and_follows_it(engine: Engine, pod: Container) -> None:
    with open_terminal(31, 97) as (master, slave):
        script = "trap 'stty size' WINCH; stty size; while :; do read line && eval $line; done"
        process = engine.start("exec", "--tty", pod.id, "sh", "-c", script, stdin=slave, stdout=slave, stderr=slave)
        try:
            assert b"31 97" in read_until(master, b"31 97")
            resize(slave, 40, 120)
            process.send_signal(28)  # SIGWINCH, which the terminal's session gets from the kernel
            os.write(master, b"true\n")
            assert b"40 120" in read_until(master, b"40 120")
            os.write(master, b"exit 9\n")
            assert process.wait(20) == 9
        finally:
            process.kill()
            process.wait(10)


def test_the_guests_terminal_does_the_line_discipline(engine: Engine, pod: Container) -> None:
    with open_terminal(24, 80) as (master, slave):
        process = engine.start("exec", "--tty", pod.id, "cat", stdin=slave, stdout=slave, stderr=slave)
        try:
            # Not yet raw: what is typed before the process is there would be echoed by the host's terminal.
            deadline = time.monotonic() + 20
            while termios.tcgetattr(slave)[3] & termios.ECHO:
                assert time.monotonic() < deadline
            os.write(master, b"abx\x7fc\n")
            assert read_until(master, b"\r\nabc\r\n") == b"abx\b \bc\r\nabc\r\n"
            os.write(master, b"\x04")
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait(10)
        assert termios.tcgetattr(slave)[3] & termios.ECHO, "the terminal was left raw"


def test_control_c_in_a_terminal_interrupts_the_process(engine: Engine, pod: Container) -> None:
    with open_terminal(24, 80) as (master, slave):
        script = "echo ready; sleep 100"
        process = engine.start("exec", "--tty", pod.id, "sh", "-c", script, stdin=slave, stdout=slave, stderr=slave)
        try:
            read_until(master, b"ready")
            os.write(master, b"\x03")
            assert process.wait(20) == 130
        finally:
            process.kill()
            process.wait(10)


def test_a_signal_to_the_command_reaches_the_process(engine: Engine, pod: Container) -> None:
    script = "trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.1; done"
    with engine.start("exec", pod.id, "sh", "-c", script) as process:
        assert process.stdout is not None
        read_until(process.stdout.fileno(), b"ready\n")
        process.send_signal(10)
        assert read_until(process.stdout.fileno(), b"got it\n") == b"got it\n"
        assert process.wait(20) == 5


def test_a_reader_that_goes_away_does_not_stop_the_process(engine: Engine, pod: Container) -> None:
    with engine.start(
        "exec", pod.id, "sh", "-c", "head -c 5000000 /dev/zero; exit 3", stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(30) == 3
