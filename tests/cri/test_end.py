"""How containers of the CRI end, and what comes after: grace, memory, restarts, the pod's end, events."""

import json
import time
from collections.abc import Iterator

import pytest

from cri.crictl import Crictl
from podman.engine import Terminal

_ANSWERS_TERM = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 1000 & wait $!; done"
_IGNORES_TERM = "trap '' TERM; echo ready; while :; do sleep 1000; done"


@pytest.fixture(scope="module")
def pod(crictl: Crictl) -> Iterator[str]:
    """A pod that the module's tests share."""
    with crictl.hold_pod() as pod:
        yield pod


def test_a_container_that_is_stopped_may_say_good_bye(crictl: Crictl, pod: str) -> None:
    container = _start_ready(crictl, pod, _ANSWERS_TERM)
    crictl.succeed("stop", "--timeout", "60", container)

    assert crictl.wait_for_exit(container)["exitCode"] == 7
    assert crictl.succeed("logs", container).split() == ["ready", "bye"]
    crictl.succeed("rm", container)


def test_one_that_does_not_go_is_killed_when_its_grace_is_over(crictl: Crictl, pod: str) -> None:
    container = _start_ready(crictl, pod, _IGNORES_TERM)
    began = time.monotonic()
    crictl.succeed("stop", "--timeout", "2", container)

    assert time.monotonic() - began >= 2
    assert crictl.wait_for_exit(container)["exitCode"] == 137
    crictl.succeed("rm", container)


def test_a_container_that_needs_more_than_its_memory_is_killed_for_that_reason(crictl: Crictl, pod: str) -> None:
    limits = {"resources": {"memory_limit_in_bytes": 20 << 20, "memory_swap_limit_in_bytes": 20 << 20}}
    container = crictl.start(pod, "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", linux=limits)
    status = crictl.wait_for_exit(container)

    assert (status["exitCode"], status["reason"]) == (137, "OOMKilled")
    crictl.succeed("rm", container)


def test_a_container_is_started_again_under_its_name_with_the_next_attempt(crictl: Crictl, pod: str) -> None:
    tries = []
    for attempt in range(3):
        metadata = {"name": "again", "attempt": attempt}
        container = crictl.start(pod, "sh", "-c", f"exit {attempt + 1}", metadata=metadata, log_path=f"{attempt}.log")
        status = crictl.wait_for_exit(container)
        tries.append((status["metadata"]["attempt"], status["exitCode"], status["reason"]))
    listed = crictl.read("ps", "--all", "--pod", pod, "--name", "^again$")["containers"]
    for entry in listed:
        crictl.succeed("rm", entry["id"])

    assert tries == [(0, 1, "Error"), (1, 2, "Error"), (2, 3, "Error")]
    assert sorted(entry["metadata"]["attempt"] for entry in listed) == [0, 1, 2]


def test_a_log_is_followed_to_the_containers_end(crictl: Crictl, pod: str) -> None:
    container = crictl.start(pod, "sh", "-c", "echo first; until [ -e /tmp/go ]; do sleep 0.1; done; echo last")
    with Terminal(command=crictl.command("logs", "--follow", container)) as follower:
        follower.expect("first")
        crictl.run("exec", "-s", container, "touch", "/tmp/go")  # may be ended by the container's end
        follower.expect("last")
        assert follower.wait() == 0
    crictl.wait_for_exit(container)

    assert crictl.succeed("logs", "--tail", "1", container) == "last\n"
    crictl.succeed("rm", container)


def test_attaching_to_a_terminal_shows_it_and_types_at_it(crictl: Crictl, pod: str) -> None:
    container = crictl.start(pod, "sh", tty=True, stdin=True)
    with Terminal(command=crictl.command("attach", "-it", container), rows=31, columns=97) as terminal:
        terminal.type("stty size; echo it$((6 * 7))\n")
        terminal.expect("31 97")
        terminal.expect("it42")
        terminal.type("exit 9\n")

        assert crictl.wait_for_exit(container)["exitCode"] == 9
    crictl.succeed("rm", container)


def test_a_container_that_runs_is_removed_only_by_force(crictl: Crictl, pod: str) -> None:
    container = crictl.start(pod, "sleep", "1000")
    done = crictl.run("rm", container)

    assert done.code != 0
    assert crictl.find_state(container) == "CONTAINER_RUNNING"
    crictl.succeed("rm", "--force", container)
    assert crictl.run("inspect", container).code != 0


def test_the_end_of_a_pod_ends_its_containers(crictl: Crictl) -> None:
    with crictl.hold_pod() as pod:
        container = crictl.start(pod, "sleep", "1000")
        crictl.succeed("stopp", pod)

        assert crictl.wait_for_exit(container)["exitCode"] in (137, 143)
        assert crictl.read("inspectp", pod)["status"]["state"] == "SANDBOX_NOTREADY"


def test_events_tell_a_containers_life_in_order(crictl: Crictl, pod: str) -> None:
    with Terminal(command=crictl.command("events", "--output", "json"), columns=8192) as events:
        # The stream is open when an event comes through it: the first ones may be too early to be seen.
        warm = crictl.start(pod, "true")
        crictl.wait_for_exit(warm)
        crictl.succeed("rm", warm)
        events.expect(warm)
        container = crictl.start(pod, "true")
        crictl.wait_for_exit(container)
        crictl.succeed("rm", container)
        shown = events.expect("CONTAINER_DELETED_EVENT")
        if container not in shown:  # it was the first one's
            shown += events.expect("CONTAINER_DELETED_EVENT")
        kinds = [kind for kind in ("CREATED", "STARTED", "STOPPED", "DELETED") if f"CONTAINER_{kind}_EVENT" in shown]

    assert kinds == ["CREATED", "STARTED", "STOPPED", "DELETED"], json.dumps(shown)


def _start_ready(crictl: Crictl, pod: str, script: str) -> str:
    """Start a container whose shell says `ready` when its traps are set."""
    container = crictl.start(pod, "sh", "-c", script)
    with Terminal(command=crictl.command("logs", "--follow", container)) as follower:
        follower.expect("ready")
    return container
