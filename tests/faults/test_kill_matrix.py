"""kill -9 of every process of a sandbox in every phase of its life: somebody is told why, and nothing stays."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import leaks
from engine import Container, Engine, kill_process, make_privileged, wait_for_child
from watch import wait_for_file

PROMPT = 3.0
"""Seconds within which an engine has to know that a container is dead: twice the time wanted on an idle host."""
HOST = ("serve", "qemu", "virtiofsd")
PANIC = "sleep 0.01; echo c > /proc/sysrq-trigger"


@dataclass(frozen=True, slots=True)
class Creation:
    """A `create` under way."""

    engine: Engine
    id: str
    process: "subprocess.Popen[bytes]"

    @property
    def directory(self) -> Path:
        return self.engine.find_sandbox(self.id)

    def fail(self) -> str:
        """Let it end, which it must with an error, and return that."""
        _, err = self.process.communicate(timeout=30)
        assert self.process.returncode == 1, err
        return str(err.decode())


@contextmanager
def creating(engine: Engine, phase: str) -> Iterator[Creation]:
    """Have a container being created that has come as far as the file `phase` of its sandbox."""
    container = engine.name("cut")
    bundle = engine.make_bundle(container, ["sleep", "1000"])
    out = engine.directory / f"{container}.out"
    with out.open("wb") as sink:
        process = engine.start("create", "--bundle", str(bundle), container, stdin=subprocess.DEVNULL, stdout=sink)
    with process:
        creation = Creation(engine, container, process)
        try:
            wait_for_file(creation.directory / phase)
            yield creation
        finally:
            process.kill()
            process.wait()
            # What a failed assertion leaves is not the next test's: there may be nothing to delete.
            engine.run("delete", "--force", container)


def remove_all(engine: Engine, container: str, before: set[str]) -> None:
    """Delete by force, which has to do, and see that nothing is left of it."""
    engine.succeed("delete", "--force", container)
    left = engine.wait_until_clean(allowed=before)
    assert not left, "delete --force left:\n" + "\n".join(sorted(left))


@contextmanager
def held(engine: Engine, *args: str, **more: Any) -> Iterator[Container]:
    """A container whose deletion is a part of the test."""
    before = engine.find_traces()
    with engine.hold(*(args or ("sleep", "1000")), **more) as container:
        yield container
        remove_all(engine, container.id, before)


def kill_victim(container: Container, victim: str) -> None:
    if victim == "stand-in":
        kill_process(container.pid)
    elif victim == "guest":
        container.engine.run("exec", container.id, "sh", "-c", PANIC)
    else:
        kill_process(container.engine.find_process(victim, container.sandbox))


# While it starts


@pytest.mark.parametrize("phase", ["service.sock", "vport-1024.sock"])
@pytest.mark.parametrize("victim", HOST)
def test_a_start_whose_process_is_killed_fails_with_the_phase(engine: Engine, victim: str, phase: str) -> None:
    if phase == "service.sock" and victim != "serve":
        phase = "virtiofsd.log" if victim == "virtiofsd" else "qemu.log"
    with creating(engine, phase) as creation:
        before = time.monotonic()
        kill_process(find_starting(engine, victim, creation.id))
        error = creation.fail()
        assert time.monotonic() - before < 10, "the failure took too long to be seen"
    assert "create failed" in error
    if victim == "qemu":
        assert "start failed in phase" in error, error
        assert "was killed by signal 9" in error, error
    engine.succeed("delete", "--force", creation.id)
    assert not engine.wait_until_clean()


def find_starting(engine: Engine, victim: str, sandbox: str) -> int:
    """Return the pid of a process that is just being started: setpriv(1) becomes it by exec."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return engine.find_process(victim, sandbox)
        except LookupError:
            assert time.monotonic() < deadline, f"no {victim} was started"


# The log comes with the daemon: before that there is a directory only, which nobody but `gc` is left to remove.
@pytest.mark.parametrize("phase", ["service.log", "vport-1024.sock"])
def test_a_create_that_is_killed_takes_its_sandbox_along(engine: Engine, phase: str) -> None:
    with creating(engine, phase) as creation:
        kill_process(creation.process.pid)
        creation.process.wait(10)
        # The daemon notices that nobody waits for its answer any more; its stand-in notices that it is gone.
        left = engine.wait_until_clean(timeout=20)
        assert not left, "\n".join(sorted(left))


def test_a_create_that_is_told_to_end_takes_its_sandbox_along(engine: Engine) -> None:
    with creating(engine, "vport-1024.sock") as creation:
        creation.process.send_signal(signal.SIGTERM)
        assert creation.process.wait(20) != 0
        assert not engine.wait_until_clean()


def test_a_start_whose_stand_in_is_killed_leaves_nothing_to_delete_but_the_container(engine: Engine) -> None:
    with creating(engine, "vport-1024.sock") as creation:
        stand_ins = [
            pid
            for pid, text in leaks.list_processes(engine.token)
            if creation.id in text and " create " in text and pid != creation.process.pid
        ]
        kill_process(stand_ins[0])
        creation.process.wait(60)
    engine.succeed("delete", "--force", creation.id)
    assert not engine.wait_until_clean()


def test_a_guest_that_panics_as_it_boots_is_quoted(engine: Engine, guest_image: Path, tmp_path: Path) -> None:
    config = tmp_path / "configuration.toml"
    config.write_text(engine.config.read_text() + 'kernel_params = "init=/no/such/init"\n')
    container = engine.name("panic")
    bundle = engine.make_bundle(container, ["true"])
    result = engine.run("--config", str(config), "run", "--bundle", str(bundle), container)
    assert result.code == 1
    assert "start failed in phase guest boot" in result.err
    assert "panicked" in result.err
    assert "/no/such/init" in result.err, result.err


# Created, and running with an exec under way


@pytest.mark.parametrize("victim", [*HOST, "stand-in"])
def test_a_created_container_dies_at_once_with_what_carries_it(engine: Engine, victim: str) -> None:
    with held(engine, start=False) as container:
        before = time.monotonic()
        kill_victim(container, victim)
        code = container.wait(timeout=PROMPT)
        assert code == (-signal.SIGKILL if victim == "stand-in" else 255)
        assert time.monotonic() - before < PROMPT
        wait_for_stop(container)
        assert engine.run("start", container.id).code == 1


@pytest.mark.parametrize("victim", [*HOST, "guest", "stand-in"])
def test_a_running_container_and_its_execs_die_at_once_with_what_carries_them(engine: Engine, victim: str) -> None:
    script = "trap '' TERM; echo up; while :; do sleep 1000; done"
    with held(engine, "sh", "-c", script, change=make_privileged) as container:
        with engine.start("exec", container.id, "sh", "-c", "echo up; sleep 1000") as execution:
            assert execution.stdout is not None
            assert execution.stdout.readline() == b"up\n"
            before = time.monotonic()
            kill_victim(container, victim)
            code = container.wait(timeout=PROMPT)
            # Killing what stands for the init kills the container, and with it what was executed in it.
            assert execution.wait(PROMPT) == (137 if victim == "stand-in" else 255)
            assert time.monotonic() - before < PROMPT
            assert code == (-signal.SIGKILL if victim == "stand-in" else 255)
        wait_for_stop(container)
        result = engine.run("exec", container.id, "true")
        assert result.code == 255
        assert "not running" in result.err or "stopped" in result.err, result.err
        if victim == "guest":
            assert "panicked" in (engine.find_sandbox(container.id) / "service.log").read_text()


def wait_for_stop(container: Container) -> None:
    deadline = time.monotonic() + PROMPT
    while container.find_status() != "stopped":
        assert time.monotonic() < deadline, f"{container.id} is still {container.find_status()}"


def test_an_exec_that_is_killed_kills_its_process_and_nothing_else(engine: Engine, pod: Container) -> None:
    with engine.start("exec", pod.id, "sh", "-c", "echo up; exec sleep 5151") as execution:
        assert execution.stdout is not None
        assert execution.stdout.readline() == b"up\n"
        kill_process(execution.pid)
        execution.wait(10)
    pod.ask("sh", "-c", "while pgrep -f 'sleep 51[5]1'; do :; done")
    assert pod.find_status() == "running"


def test_the_foreground_command_that_is_killed_kills_its_container(engine: Engine, pod: Container) -> None:
    container = engine.name("run")
    bundle = engine.make_bundle(container, ["sh", "-c", "echo up; sleep 1000"], join(pod.id))
    with engine.start("run", "--bundle", str(bundle), container) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"up\n"
        kill_process(command.pid)
    deadline = time.monotonic() + 10
    while engine.find_state(container)["status"] != "stopped":
        assert time.monotonic() < deadline
    engine.succeed("delete", container)


def join(pod: str) -> Any:
    annotations = {"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": pod}
    return lambda spec: spec.update(annotations=annotations)


def test_a_panic_ends_one_sandbox_and_no_other(engine: Engine, pod: Container) -> None:
    with held(engine, change=make_privileged) as container:
        kill_victim(container, "guest")
        assert container.wait(timeout=PROMPT) == 255
        assert pod.ask("echo", "alive") == "alive\n"


# While it is deleted


@dataclass(frozen=True, slots=True)
class Gate:
    """A poststop hook that holds a deletion until it is let go."""

    reached: Path
    release: Path

    @property
    def hook(self) -> dict[str, Any]:
        # Open for both, so that opening does not wait, and whoever lets it go finds a reader from the first moment on.
        script = f"exec 3<>{self.release}; touch {self.reached}; read -r word <&3"
        return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}

    def open(self) -> None:
        """Let the hook go on, if it still is there."""
        try:
            descriptor = os.open(self.release, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return
        os.write(descriptor, b"go\n")
        os.close(descriptor)


def make_gate(directory: Path) -> Gate:
    os.mkfifo(directory / "release")
    return Gate(directory / "reached", directory / "release")


@pytest.mark.parametrize("victim", [*HOST, "command"])
def test_a_deletion_whose_process_is_killed_can_be_finished(engine: Engine, victim: str, tmp_path: Path) -> None:
    gate = make_gate(tmp_path)
    before = engine.find_traces()
    container = engine.name("deleted")
    bundle = engine.make_bundle(container, ["sleep", "1000"], lambda spec: spec.update(hooks={"poststop": [gate.hook]}))
    engine.succeed("run", "--detach", "--bundle", str(bundle), container)
    with engine.start("delete", "--force", container) as deletion:
        wait_for_file(gate.reached)
        kill_process(deletion.pid if victim == "command" else engine.find_process(victim, container))
        gate.open()
        deletion.wait(20)
    engine.succeed("delete", "--force", container)
    if engine.wait_until_clean(allowed=before, timeout=5):
        engine.succeed("gc")
    left = engine.wait_until_clean(allowed=before)
    assert not left, "\n".join(sorted(left))


# gc


def test_gc_removes_what_a_killed_daemon_left_and_leaves_running_sandboxes_alone(
    engine: Engine, pod: Container
) -> None:
    before = engine.find_traces()
    with engine.hold("sleep", "1000", name="lost") as lost:
        kill_process(engine.find_process("serve", lost.id))
        wait_for_child(lost.pid, timeout=PROMPT)
        shown = engine.succeed("gc", "--dry-run")
        assert f"would remove sandbox {lost.id}" in shown
        assert pod.id not in shown
        assert (engine.root / "containers" / f"{lost.id}.json").exists(), "a dry run has removed something"
        assert engine.find_state(lost.id)["status"] == "stopped"
        done = engine.succeed("gc")
        assert f"removed sandbox {lost.id}" in done
        assert f"container {lost.id}" in done
        left = engine.wait_until_clean(allowed=before)
        assert not left, "\n".join(sorted(left))
        assert engine.succeed("gc") == "nothing to remove\n"
    assert pod.ask("echo", "alive") == "alive\n"


def test_two_deletions_at_once_do_not_harm_the_pod(engine: Engine, pod: Container) -> None:
    with engine.hold("sleep", "1000", pod=pod.id) as member:
        commands = [engine.start("delete", "--force", member.id) for _ in range(4)]
        for command in commands:
            _, err = command.communicate(timeout=30)
            assert command.returncode == 0, err
    assert pod.ask("echo", "alive") == "alive\n"
    assert json.loads((engine.root / "containers" / f"{pod.id}.json").read_text())["status"] == "running"
