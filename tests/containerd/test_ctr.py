"""containerd runs containers in VMs by the shim, seen with ctr."""

import contextlib
import json
import os
import platform
import re
import signal
from collections.abc import Iterator

import pytest

from containerd.daemon import RUNTIME, Containerd
from containerd.events import watch_events
from containerd.images import IMAGE
from engine import kill_process
from howto import find_block, follow
from podman.engine import Terminal

_SAVABLE = 'shared_fs = "none"\nguest_channel = "vport"\n'
"""VMs that can be saved, under KVM too."""


@pytest.fixture(scope="module")
def sleeper(daemon: Containerd) -> Iterator[str]:
    """A container that waits, shared by the tests that do not end it."""
    with daemon.hold("sleep", "100000") as name:
        yield name


def test_a_container_runs_in_a_vm_and_its_output_input_and_code_come_through(daemon: Containerd) -> None:
    done = daemon.run_container("sh", "-c", "uname -r; cat; echo wrong >&2; exit 3", stdin="from outside\n")

    kernel, text = done.out.splitlines()
    assert kernel != platform.release()
    assert text == "from outside"
    assert "wrong" in done.err
    assert done.code == 3


def test_the_words_of_the_how_to_page_do_what_it_says(daemon: Containerd) -> None:
    commands = find_block("containerd", "ctr images import") + find_block("containerd", "ctr tasks exec")
    shown = follow(commands, daemon.place, {"ctr": daemon.command()})

    assert platform.release() not in shown
    assert "memory" in shown
    assert not {"try", "web"} & set(daemon.succeed("containers", "ls", "-q").split())


def test_nothing_is_left_of_a_container_that_was_removed(daemon: Containerd) -> None:
    with daemon.hold("sleep", "1000") as name:
        assert daemon.find_status(name) == "RUNNING"
        assert any("qemu" in line for line in daemon.find_traces(name))

    assert not daemon.find_traces(name)


def test_the_snapshotter_that_copies_serves_too(daemon: Containerd) -> None:
    done = daemon.run_container("sh", "-c", "echo text > /new; cat /new", flags=("--snapshotter", "native"))

    assert (done.code, done.out) == (0, "text\n")


def test_exec_gives_output_input_and_code(daemon: Containerd, sleeper: str) -> None:
    done = daemon.execute(sleeper, "sh", "-c", "cat; echo wrong >&2; exit 5", stdin="hello\n")

    assert (done.code, done.out, done.err) == (5, "hello\n", "wrong\n")


def test_all_of_a_large_output_comes_in_order(daemon: Containerd, sleeper: str) -> None:
    done = daemon.execute(sleeper, "seq", "1", "200000")

    assert done.out == "".join(f"{number}\n" for number in range(1, 200001))


def test_exec_on_a_terminal_has_its_size(daemon: Containerd, sleeper: str) -> None:
    command = daemon.command("tasks", "exec", "-t", "--exec-id", daemon.name("tty"), sleeper, "sh")
    with Terminal(command=command, rows=33, columns=99) as terminal:
        terminal.type("stty size; echo in$((3))\n")
        terminal.expect("33 99")
        terminal.expect("in3")
        terminal.type("exit 6\n")

        assert terminal.wait() == 6


def test_a_paused_container_stands_still_until_it_is_resumed(daemon: Containerd, sleeper: str) -> None:
    daemon.succeed("tasks", "pause", sleeper)
    paused = daemon.find_status(sleeper)
    daemon.succeed("tasks", "resume", sleeper)

    assert (paused, daemon.find_status(sleeper)) == ("PAUSED", "RUNNING")
    assert daemon.execute(sleeper, "echo", "alive").out == "alive\n"


def test_metrics_show_the_use_of_the_guest(daemon: Containerd, sleeper: str) -> None:
    shown = json.loads(daemon.succeed("tasks", "metrics", "--format", "json", sleeper))

    assert shown["pids"]["current"] >= 1
    if "usage_usec" in shown["cpu"]:  # of version 2 of cgroups, where the host has that
        time, memory = shown["cpu"]["usage_usec"], shown["memory"]["usage"]
    else:
        time, memory = shown["cpu"]["usage"]["total"], shown["memory"]["usage"]["usage"]
    assert time > 0
    assert 0 < memory < 512 << 20


def test_ps_shows_the_process_that_stands_for_the_container_on_this_host(daemon: Containerd, sleeper: str) -> None:
    listed = daemon.succeed("tasks", "ps", sleeper).splitlines()[1:]

    assert [int(line.split()[0]) for line in listed] == [daemon.find_pid(sleeper)]


def test_a_checkpoint_is_refused_with_the_reason_and_no_event_tells_of_one(daemon: Containerd, sleeper: str) -> None:
    with watch_events(daemon) as events:
        done = daemon.run("tasks", "checkpoint", sleeper)
        daemon.execute(sleeper, "true")
        events.wait_for("/tasks/exit", sleeper)

        assert "/tasks/checkpointed" not in events.list_topics(sleeper)
    assert done.code != 0
    assert "shares files with its guest by virtio-fs" in done.err
    assert daemon.find_status(sleeper) == "RUNNING"


def test_a_signal_is_delivered_and_events_come_in_order(daemon: Containerd) -> None:
    with watch_events(daemon) as events:
        with daemon.hold("sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done") as name:
            daemon.execute(name, "true")
            daemon.succeed("tasks", "kill", "--signal", "SIGTERM", name)
            exited = events.wait_for("/tasks/exit", f'"id":"{name}"')
            assert '"exit_status":7' in exited
            assert daemon.find_status(name) == "STOPPED"
        events.wait_for("/tasks/delete", name)

    assert events.list_topics(name) == [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/exit",
        "/tasks/exit",
        "/tasks/delete",
    ]


def test_the_containers_of_a_pod_share_a_vm(daemon: Containerd) -> None:
    role, sandbox = "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"
    boot = ("cat", "/proc/sys/kernel/random/boot_id")
    with daemon.hold("sleep", "1000", flags=("--annotation", f"{role}=sandbox")) as pod:
        flags = ("--annotation", f"{role}=container", "--annotation", f"{sandbox}={pod}")
        done = daemon.run_container(*boot, flags=flags)

        assert done.code == 0
        assert done.out == daemon.execute(pod, *boot).out
        assert daemon.find_status(pod) == "RUNNING"


def test_an_annotation_that_nobody_opened_refuses_the_container_and_leaves_nothing(daemon: Containerd) -> None:
    name = daemon.name("refused")
    annotation = "io.katacontainers.config.hypervisor.kernel_params"
    flags = ("--annotation", f"{annotation}=agent.debug_console")
    done = daemon.run("run", "--rm", "--runtime", RUNTIME, *flags, IMAGE, name, "true")

    assert done.code != 0
    assert f"annotation {annotation} cannot be used" in done.err
    assert not daemon.wait_until_gone(name)


def test_a_killed_shim_leaves_nothing_and_its_container_is_stopped(daemon: Containerd) -> None:
    with watch_events(daemon) as events, daemon.hold("sleep", "1000") as name:
        kill_process(daemon.find_shim(name))
        exited = events.wait_for("/tasks/exit", name)
        events.wait_for("/tasks/delete", name)

        assert '"exit_status":137' in exited
        assert not daemon.find_traces(name)


def test_containers_outlive_containerd(daemon: Containerd) -> None:
    with daemon.hold("sleep", "1000") as name:
        before = daemon.find_pid(name)
        daemon.stop()
        daemon.start()

        assert daemon.find_pid(name) == before
        assert daemon.execute(name, "echo", "still here").out == "still here\n"


def test_a_vm_that_dies_ends_its_container(daemon: Containerd) -> None:
    with watch_events(daemon) as events, daemon.hold("sleep", "1000") as name:
        [qemu] = [
            int(line.split()[1].rstrip(":"))
            for line in daemon.find_traces(name)
            if re.match(r"process \d+: \S*qemu-system", line)
        ]
        os.kill(qemu, signal.SIGKILL)

        assert '"exit_status":255' in events.wait_for("/tasks/exit", name)


def test_a_container_that_was_saved_goes_on_where_it_was(daemon: Containerd) -> None:
    script = "n=0; while true; do n=$((n+1)); echo $n > /n; usleep 20000; done"
    with daemon.configure(_SAVABLE), contextlib.ExitStack() as stack:
        name = stack.enter_context(daemon.hold("sh", "-c", script))
        daemon.execute(name, "sh", "-c", "until [ -s /n ]; do :; done")
        image = f"{name}-saved"
        # By a path, and the task goes on.
        place = daemon.place / "saved"
        with watch_events(daemon) as events:
            daemon.succeed("tasks", "checkpoint", "--image-path", str(place), name)
            events.wait_for("/tasks/checkpointed", name)
        # containerd 1.6 heeds the path for runc's runtime alone, and makes an image for others.
        made = [
            one for one in daemon.succeed("images", "ls", "-q").split() if one.startswith("containerd.io/checkpoint/")
        ]
        assert made or (place / "checkpoint.json").exists()
        for one in made:
            daemon.succeed("images", "rm", one)
        assert daemon.find_status(name) == "RUNNING"
        # As an image of containerd's.
        before = int(daemon.execute(name, "cat", "/n").out)
        daemon.succeed("containers", "checkpoint", "--image", "--task", "--rw", name, image)
        stack.callback(daemon.run, "images", "rm", image)
        other = daemon.name("restored")
        stack.callback(daemon.remove, other)
        daemon.succeed("containers", "restore", "--live", other, image)
        assert daemon.find_status(other) == "RUNNING"
        assert int(daemon.execute(other, "cat", "/n").out) > before
        assert daemon.execute(name, "echo", "on").out == "on\n"


def test_the_words_of_the_page_on_checkpoints_do_what_it_says(daemon: Containerd) -> None:
    with daemon.configure(_SAVABLE):
        shown = follow(find_block("checkpoint", "ctr run"), daemon.place, {"ctr": daemon.command()})

    assert platform.release() not in shown
    assert "web" not in daemon.succeed("containers", "ls", "-q").split()
