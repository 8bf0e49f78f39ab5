"""The Task service's calls that ctr has no word for, its answers to calls that come twice, and its events."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from containerd.daemon import RUNTIME, Containerd
from containerd.events import watch_events
from containerd.images import IMAGE
from containerd.shimcall import call_shim, find_bundle
from kata.errors import Code, DeadlineError, GuestError
from kata.protocol.messages import task
from kata.protocol.messages.google import Any
from kata.protocol.messages.types import Empty
from kata.protocol.protobuf import Message

_PROCESS = {"args": ["sleep", "1000"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}


@pytest.fixture(scope="module")
def sleeper(current: Containerd) -> Iterator[str]:
    """A container that waits, shared by the tests that do not end it."""
    with current.hold("sleep", "100000") as name:
        yield name


def _pack(document: object) -> Any:
    return Any(
        type_url="types.containerd.io/opencontainers/runtime-spec/1/Process", value=json.dumps(document).encode()
    )


def _exec(name: str, exec_id: str) -> task.ExecProcessRequest:
    return task.ExecProcessRequest(id=name, exec_id=exec_id, spec=_pack(_PROCESS))


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_of_the_service_tell_the_same_state(current: Containerd, sleeper: str, version: int) -> None:
    request = task.ProcessRequest(id=sleeper)
    state = call_shim(current, sleeper, "State", request, task.StateResponse, version=version)

    assert (state.id, state.status, state.pid) == (sleeper, task.TaskStatus.RUNNING, current.find_pid(sleeper))
    assert state.bundle == str(find_bundle(current, sleeper))


def test_limits_of_resources_are_changed_in_the_guest(current: Containerd, sleeper: str) -> None:
    resources = {"memory": {"limit": 48 << 20}, "pids": {"limit": 77}, "cpu": {"quota": 50000, "period": 100000}}
    call_shim(current, sleeper, "Update", task.UpdateTaskRequest(id=sleeper, resources=_pack(resources)), Empty)
    shown = json.loads(current.succeed("tasks", "metrics", "--format", "json", sleeper))

    memory = shown["memory"]
    assert (memory.get("usage_limit") or memory["usage"]["limit"]) == 48 << 20
    assert shown["pids"]["limit"] == 77


def test_calls_that_come_twice_get_what_containerd_expects(current: Containerd, sleeper: str) -> None:
    def ask(method: str, request: Message, reply: type[Message] = Empty) -> Code:
        try:
            call_shim(current, sleeper, method, request, reply)
        except GuestError as error:
            return error.status
        return Code.OK

    process = task.ProcessRequest(id=sleeper, exec_id="twice")
    kill = task.KillRequest(id=sleeper, exec_id="twice", signal=9)
    create = task.CreateTaskRequest(id=sleeper, bundle=str(find_bundle(current, sleeper)))

    assert ask("Create", create, task.PidResponse) == Code.ALREADY_EXISTS
    assert ask("Start", task.ProcessRequest(id=sleeper), task.PidResponse) == Code.FAILED_PRECONDITION
    assert ask("Delete", task.ProcessRequest(id=sleeper), task.DeleteResponse) == Code.FAILED_PRECONDITION
    assert ask("Checkpoint", task.CheckpointTaskRequest(id=sleeper)) == Code.UNIMPLEMENTED
    assert ask("Start", process, task.PidResponse) == Code.NOT_FOUND
    assert ask("Exec", _exec(sleeper, "twice")) == Code.OK
    assert ask("Exec", _exec(sleeper, "twice")) == Code.OK
    assert ask("Kill", kill) == Code.FAILED_PRECONDITION
    assert ask("Start", process, task.PidResponse) == Code.OK
    assert ask("Exec", _exec(sleeper, "twice")) == Code.ALREADY_EXISTS
    assert ask("Start", process, task.PidResponse) == Code.FAILED_PRECONDITION
    assert ask("Kill", kill) == Code.OK
    ended = call_shim(current, sleeper, "Wait", process, task.WaitResponse)
    assert ended.exit_status == 137
    assert ask("Kill", kill) == Code.OK
    assert ask("Kill", task.KillRequest(id=sleeper, exec_id="twice", signal=1)) == Code.NOT_FOUND
    assert ask("Delete", process, task.DeleteResponse) == Code.OK
    assert ask("Delete", process, task.DeleteResponse) == Code.NOT_FOUND


@contextmanager
def _begin(current: Containerd) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Have a container whose VM is being booted for ctr."""
    name = current.name("begun")
    command = current.command("run", "-d", "--runtime", RUNTIME, IMAGE, name, "sleep", "1000")
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 20
            while not any("qemu-system" in line for line in current.find_traces(name)):
                assert time.monotonic() < deadline
            yield name, process
        finally:
            process.wait(60)
            current.run("tasks", "delete", "--force", name)
            current.run("containers", "rm", name)


def test_a_create_that_is_repeated_joins_the_one_under_way(current: Containerd) -> None:
    with _begin(current) as (name, process):
        request = task.CreateTaskRequest(id=name, bundle=str(find_bundle(current, name)))
        with pytest.raises(DeadlineError):
            call_shim(current, name, "Create", request, task.PidResponse, timeout=0.05)
        answer = call_shim(current, name, "Create", request, task.PidResponse)

        assert process.wait(60) == 0
        assert answer.pid == current.find_pid(name)


def test_a_create_is_undone_as_a_whole_by_a_delete(current: Containerd) -> None:
    with _begin(current) as (name, process):
        gone = call_shim(current, name, "Delete", task.ProcessRequest(id=name), task.DeleteResponse)
        _, errors = process.communicate(timeout=60)

        assert gone.exit_status == 137
        assert process.returncode
        assert b"was deleted while it was created" in errors
    assert not current.find_traces(name)


def test_a_start_whose_client_ran_out_of_time_goes_on(current: Containerd, sleeper: str) -> None:
    call_shim(current, sleeper, "Exec", _exec(sleeper, "slow"), Empty)
    process = task.ProcessRequest(id=sleeper, exec_id="slow")
    with pytest.raises((DeadlineError, GuestError)):
        call_shim(current, sleeper, "Start", process, task.PidResponse, timeout=0.001)
    answers: list[object] = []

    def wait() -> None:
        answers.append(call_shim(current, sleeper, "Wait", process, task.WaitResponse).exit_status)

    waiting = threading.Thread(target=wait)
    waiting.start()
    with watch_events(current) as events:
        with suppress(GuestError):  # which it is if the first one has come to its end by now
            call_shim(current, sleeper, "Start", process, task.PidResponse)
        call_shim(current, sleeper, "Kill", task.KillRequest(id=sleeper, exec_id="slow", signal=9), Empty)
        events.wait_for("/tasks/exit", '"id":"slow"')
    waiting.join(20)

    assert answers == [137]
    call_shim(current, sleeper, "Delete", process, task.DeleteResponse)


def test_a_container_that_outgrows_its_memory_is_told_of_before_its_end(current: Containerd) -> None:
    limit = ("--memory-limit", str(32 << 20))
    with watch_events(current) as events, current.hold("tail", "/dev/zero", flags=limit) as name:
        line = events.wait_for("/tasks/exit", name)

        assert '"exit_status":137' in line
        assert events.list_topics(name) == ["/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit"]


def test_what_is_done_to_a_container_is_told_in_order(current: Containerd, sleeper: str) -> None:
    with watch_events(current) as events:
        current.succeed("tasks", "pause", sleeper)
        current.succeed("tasks", "resume", sleeper)
        current.execute(sleeper, "true")
        events.wait_for("/tasks/exit", sleeper)

        assert events.list_topics(sleeper) == [
            "/tasks/paused",
            "/tasks/resumed",
            "/tasks/exec-added",
            "/tasks/exec-started",
            "/tasks/exit",
        ]
