"""What an operator does with Podman, done with containers in VMs.

The machine needs root, Podman 4.3 or newer with conmon, busybox-static, mmdebstrap and apt's package lists; catatonit
for pods. Nothing is configured: the runtime is given by its path. KATA_TEST_RUNTIME names another runtime to compare
with; on a host without CAP_SYS_RESOURCE those start only with the limits that `engine` sets, and pods not at all.
"""

import json
import os
import re
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from podman.engine import IS_VM, Terminal, find_runtime, podman, run, run_words, running, wait_for_log

in_a_vm = pytest.mark.skipif(not IS_VM, reason="says something about VMs, and KATA_TEST_RUNTIME is none of ours")


@in_a_vm
def test_a_container_sees_the_kernel_of_its_guest(sleeper: str) -> None:
    assert podman("exec", sleeper, "uname", "-r").out != os.uname().release


def test_output_and_errors_come_out_apart(busybox: str) -> None:
    done = run(busybox, "sh", "-c", "echo out; echo err >&2")

    assert done.out == "out"
    assert done.err.strip() == "err"


def test_input_reaches_the_process_and_its_end_too(busybox: str) -> None:
    text = "".join(f"line {n}\n" for n in range(2000))

    assert run("-i", busybox, "sh", "-c", "cat; echo end", stdin=text).out == f"{text}end"


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_the_exit_code_comes_back(sleeper: str, code: int) -> None:
    assert podman("exec", sleeper, "sh", "-c", f"exit {code}", check=False).code == code


def test_the_exit_code_of_a_container_is_podmans(busybox: str) -> None:
    assert run(busybox, "sh", "-c", "exit 43", check=False).code == 43


def test_death_by_a_signal_is_128_and_its_number(sleeper: str) -> None:
    assert podman("exec", sleeper, "sh", "-c", "kill -9 $$", check=False).code == 137


def test_a_missing_command_is_127_and_says_so(busybox: str) -> None:
    done = run(busybox, "no-such-command", check=False)

    assert done.code == 127
    assert "no-such-command" in done.err


def test_a_command_that_is_no_program_is_126(busybox: str) -> None:
    assert run(busybox, "/etc/passwd", check=False).code == 126


def test_a_terminal_has_its_size_and_follows_a_change(busybox: str) -> None:
    with Terminal(*run_words("--rm", "-it", busybox, "sh"), rows=31, columns=97) as terminal:
        terminal.type("tty; stty size\n")
        terminal.expect("/dev/pts/0")
        terminal.expect("31 97")
        terminal.resize(40, 120)
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.type('until [ "$(stty size)" = "40 120" ]; do :; done; echo resized$((1))\n')
        terminal.expect("resized1")
        terminal.type("exit 5\n")

        assert terminal.wait() == 5


def test_control_c_interrupts_the_process_on_the_terminal(busybox: str) -> None:
    with Terminal(*run_words("--rm", "-it", busybox, "sh")) as terminal:
        terminal.type("echo up$((1))\n")
        terminal.expect("up1")
        terminal.type("sh -c 'echo sleeping$((2)); exec sleep 1000'\n")
        terminal.expect("sleeping2")
        terminal.type("\x03")
        terminal.type("echo still$((2))\n")
        terminal.expect("still2")
        terminal.type("exit\n")
        terminal.wait()


def test_exec_has_a_terminal_of_its_own(sleeper: str) -> None:
    with Terminal("exec", "-it", sleeper, "sh", rows=33, columns=99) as terminal:
        terminal.type("stty size; echo in$((3))\n")
        terminal.expect("33 99")
        terminal.expect("in3")
        terminal.type("exit 6\n")

        assert terminal.wait() == 6


def test_exec_reads_its_input(sleeper: str) -> None:
    assert podman("exec", "-i", sleeper, "cat", stdin="hello\n").out == "hello"


def test_exec_runs_as_the_user_and_in_the_directory_and_with_the_environment_asked_for(sleeper: str) -> None:
    done = podman("exec", "--user", "65534", "-w", "/tmp", "-e", "A=b c", sleeper, "sh", "-c", 'id -u; pwd; echo "$A"')

    assert done.out.splitlines() == ["65534", "/tmp", "b c"]


def test_a_detached_exec_goes_on_by_itself(sleeper: str) -> None:
    podman("exec", "-d", sleeper, "sh", "-c", "mkfifo /tmp/pipe; echo done > /tmp/pipe")

    look = "until [ -p /tmp/pipe ]; do :; done; cat /tmp/pipe; rm /tmp/pipe"
    assert podman("exec", sleeper, "sh", "-c", look).out == "done"


def test_logs_are_followed_to_the_end(busybox: str) -> None:
    with running(busybox, "sh", "-c", "mkfifo /tmp/go; echo one; read x < /tmp/go; echo two") as name:
        wait_for_log(name, "one")
        # The container may end, and this process with it, as soon as the line is read.
        podman("exec", name, "sh", "-c", "echo x > /tmp/go", check=False)
        wait_for_log(name, "two")

        assert podman("wait", name).out == "0"
        assert podman("logs", name).out.splitlines() == ["one", "two"]


def test_stop_sends_the_stop_signal_and_wait_gives_the_code(busybox: str) -> None:
    with running(busybox, "sh", "-c", "trap 'exit 12' TERM; echo up; sleep 1000 & wait") as name:
        wait_for_log(name, "up")
        podman("stop", "-t", "30", name)

        assert podman("wait", name).out == "12"


def test_stop_kills_what_does_not_listen(busybox: str) -> None:
    with running(busybox, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done") as name:
        wait_for_log(name, "up")
        podman("stop", "-t", "1", name)

        assert podman("wait", name).out == "137"


def test_kill_delivers_any_signal(busybox: str) -> None:
    with running(busybox, "sh", "-c", "trap 'echo got usr1' USR1; echo up; while :; do sleep 0.1; done") as name:
        wait_for_log(name, "up")
        podman("kill", "-s", "USR1", name)
        wait_for_log(name, "got usr1")
        podman("kill", name)

        assert podman("wait", name).out == "137"


def test_a_running_container_is_removed_by_force_and_leaves_nothing(busybox: str) -> None:
    name = f"kata-test-{uuid.uuid4().hex[:12]}"
    identity = podman(*run_words("-d", "--name", name, busybox, "sleep", "1000")).out
    podman("rm", "-f", "-t", "0", name)

    assert podman("container", "exists", name, check=False).code == 1
    left = [p for p in _list_command_lines() if identity in p]
    assert not left


def test_a_stopped_container_starts_again(busybox: str) -> None:
    with running(busybox, "sh", "-c", "echo turn >> /count; wc -l < /count") as name:
        podman("wait", name)
        podman("start", "-a", name)

        assert podman("logs", name).out.split() == ["1", "2"]


def test_a_failing_container_is_restarted_as_often_as_asked(busybox: str) -> None:
    with running("--restart", "on-failure:1", busybox, "sh", "-c", "echo turn; exit 3") as name:
        wait_for_log(name, "turn")
        podman("wait", "--condition", "exited", name)
        shown = podman("logs", "-f", name).out.split()

        assert shown == ["turn", "turn"]


def test_pause_stops_the_processes_and_unpause_lets_them_go_on(busybox: str) -> None:
    with running(busybox, "sh", "-c", "echo up; while :; do sleep 0.1; done") as name:
        wait_for_log(name, "up")
        podman("pause", name)
        assert podman("inspect", "-f", "{{.State.Status}}", name).out == "paused"
        podman("unpause", name)

        assert podman("exec", name, "echo", "alive").out == "alive"


def test_top_shows_the_processes_of_the_container_and_none_of_the_hosts(sleeper: str) -> None:
    shown = podman("top", sleeper, "pid", "args").out.splitlines()

    assert any("sleep 100000" in line for line in shown)
    assert not any("podman" in line or "qemu" in line for line in shown)


def test_stats_show_memory_and_processes(sleeper: str) -> None:
    [row] = json.loads(podman("stats", "--no-stream", "--format", "json", sleeper).out)

    assert int(row["pids"]) > 0
    assert not row["mem_usage"].startswith("0B")


def test_a_volume_is_read_and_written_on_both_sides(busybox: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host")
    run(
        "-v",
        f"{tmp_path}:/data",
        busybox,
        "sh",
        "-c",
        "cat /data/in; echo from the guest > /data/out; chmod 640 /data/out",
    )

    assert (tmp_path / "out").read_text() == "from the guest\n"
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


def test_a_read_only_volume_cannot_be_written(busybox: str, tmp_path: Path) -> None:
    done = run("-v", f"{tmp_path}:/data:ro", busybox, "sh", "-c", "echo x > /data/out", check=False)

    assert done.code != 0
    assert "Read-only" in done.err
    assert not (tmp_path / "out").exists()


def test_a_single_file_can_be_a_volume(busybox: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")

    assert run("-v", f"{tmp_path}/file:/etc/here", busybox, "cat", "/etc/here").out == "content"


def test_environment_directory_and_user_are_what_was_asked_for(busybox: str) -> None:
    done = run("-e", "A=b c", "-w", "/tmp", "--user", "1000:1001", busybox, "sh", "-c", 'echo "$A"; pwd; id -u; id -g')

    assert done.out.splitlines() == ["b c", "/tmp", "1000", "1001"]


def test_the_hostname_is_what_was_asked_for(busybox: str) -> None:
    assert run("--hostname", "somewhere", busybox, "hostname").out == "somewhere"


def test_a_read_only_root_cannot_be_written_but_its_tmp_can(busybox: str) -> None:
    done = run("--read-only", busybox, "sh", "-c", "echo x > /tmp/x && echo tmp; echo x > /x", check=False)

    assert done.out == "tmp"
    assert "Read-only" in done.err


def test_a_tmpfs_has_the_size_asked_for(busybox: str) -> None:
    done = run("--tmpfs", "/scratch:size=1m", busybox, "sh", "-c", "df -k /scratch | tail -1")

    assert "tmpfs" in done.out
    assert "1024" in done.out


def test_shared_memory_has_the_size_asked_for(busybox: str) -> None:
    assert " 2048 " in run("--shm-size", "2m", busybox, "sh", "-c", "df -k /dev/shm | tail -1").out


@pytest.mark.parametrize(
    ("words", "held"),
    [
        (("--cap-drop", "all"), 0),
        (("--cap-drop", "all", "--cap-add", "CHOWN"), 1),
        (("--cap-drop", "all", "--cap-add", "SYS_TIME"), 1 << 25),
    ],
)
def test_capabilities_are_those_asked_for(busybox: str, words: tuple[str, ...], held: int) -> None:
    out = run(*words, busybox, "grep", "CapEff", "/proc/self/status").out

    assert int(out.split()[1], 16) == held


def test_a_memory_limit_holds(busybox: str) -> None:
    done = run("--memory", "64m", busybox, "sh", "-c", "tail -c 200m /dev/zero > /dev/null; echo $?")

    assert done.out in ("137", "1")  # killed, or refused the memory at once by a guest of that size


@in_a_vm
@in_a_vm
def test_a_container_that_takes_more_memory_than_it_may_is_told_to_be_killed_for_that(busybox: str) -> None:
    hog = ("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
    with running("--memory", "24m", "--memory-swap", "24m", busybox, *hog) as name:
        assert podman("wait", name).out == "137"
        assert podman("inspect", "--format", "{{.State.OOMKilled}}", name).out == "true"


def test_processors_asked_for_are_those_of_the_guest(busybox: str) -> None:
    assert run("--cpus", "2", busybox, "nproc").out == "2"


def test_a_limit_of_open_files_is_what_was_asked_for(busybox: str) -> None:
    assert podman(
        *run_words("--rm", "--ulimit", "nofile=512:600", busybox, "sh", "-c", "ulimit -Sn; ulimit -Hn")
    ).out.split() == ["512", "600"]


def test_no_network_means_a_loopback_and_nothing_else(sleeper: str) -> None:
    out = podman("exec", sleeper, "ip", "-o", "link").out

    assert re.findall(r"^\d+: (\w+)", out, re.MULTILINE) == ["lo"]
    assert "LOWER_UP" in out


def test_a_secret_is_a_file_and_is_not_in_the_image(busybox: str) -> None:
    name = f"kata-test-{uuid.uuid4().hex[:8]}"
    podman("secret", "create", name, "-", stdin="hidden")
    try:
        assert run("--secret", name, busybox, "cat", f"/run/secrets/{name}").out == "hidden"
    finally:
        podman("secret", "rm", name)


def test_an_init_reaps_and_forwards(busybox: str) -> None:
    assert run("--init", busybox, "sh", "-c", "cat /proc/1/comm").out in ("catatonit", "podman-init", "init")


@pytest.fixture(scope="module")
def pod(busybox: str) -> Iterator[str]:
    del busybox
    if not IS_VM:
        pytest.skip("the infra container takes no limits, which a host without CAP_SYS_RESOURCE would need")
    name = f"kata-test-pod-{uuid.uuid4().hex[:8]}"
    podman("pod", "create", "--name", name, "--network", "none")
    try:
        yield name
    finally:
        podman("pod", "rm", "-f", "-t", "1", name)


def test_the_containers_of_a_pod_share_a_vm_and_its_loopback(pod: str, busybox: str) -> None:
    serve = "mkdir /w; echo from one > /w/index.html; httpd -p 127.0.0.1:8080 -h /w; echo up; sleep 100000"
    one = podman("run", "-d", "--pod", pod, busybox, "sh", "-c", serve).out
    wait_for_log(one, "up")
    boot = "cat /proc/sys/kernel/random/boot_id"
    two = podman("run", "--rm", "--pod", pod, busybox, "sh", "-c", f"{boot}; wget -qO- http://127.0.0.1:8080/").out

    assert two.splitlines() == [podman("exec", one, "sh", "-c", boot).out, "from one"]


def test_the_version_and_the_runtime_are_in_podmans_own_report() -> None:
    shown = podman("info", "--format", "{{.Host.OCIRuntime.Path}} {{.Host.OCIRuntime.Version}}").out

    assert shown.startswith(str(find_runtime()))


def _list_command_lines() -> list[str]:
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                lines.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return lines
