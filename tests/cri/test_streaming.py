"""Containers whose stdio goes over the shim's socket instead of FIFOs (`io_type = "streaming"`), seen with crictl."""

import hashlib
from collections.abc import Iterator

import pytest

from cri.crictl import Crictl, require_sandbox_api
from podman.engine import Terminal


@pytest.fixture(scope="module")
def pods(crictl: Crictl) -> Crictl:
    """The daemon of the module, with the handler under test."""
    require_sandbox_api(crictl)
    return Crictl(crictl.daemon, "kata-streaming")


@pytest.fixture(scope="module")
def pod(pods: Crictl) -> Iterator[str]:
    """A pod that the module's tests share."""
    with pods.hold_pod() as pod:
        yield pod


@pytest.fixture(scope="module")
def sleeper(pods: Crictl, pod: str) -> str:
    """A container that waits, shared by the tests that do not end it."""
    return pods.start(pod, "sleep", "100000")


def test_output_and_errors_are_in_the_log_to_the_last_byte(pods: Crictl, pod: str) -> None:
    container = pods.start(pod, "sh", "-c", "seq 1 50000; echo wrong >&2; exit 3")
    pods.wait_for_exit(container)
    done = pods.run("logs", container)
    pods.succeed("rm", container)

    assert done.out == "".join(f"{number}\n" for number in range(1, 50001))
    assert "wrong\n" in done.err


def test_exec_gives_output_input_and_failure(pods: Crictl, sleeper: str) -> None:
    done = pods.execute(sleeper, "sh", "-c", "cat; echo wrong >&2; exit 5", flags=("-i",), stdin="hello\n")

    assert (done.out, done.code != 0) == ("hello\n", True)
    assert "wrong" in done.err
    assert "exit code 5" in done.err


def test_exec_sync_gives_output(pods: Crictl, sleeper: str) -> None:
    assert pods.execute(sleeper, "echo", "text", flags=("-s",)).out.strip() == "text"


def test_more_input_than_the_window_holds_arrives_whole(pods: Crictl, sleeper: str) -> None:
    text = "".join(f"line {number}\n" for number in range(100_000))
    done = pods.execute(sleeper, "sha256sum", flags=("-i",), stdin=text)

    assert done.out.split()[0] == hashlib.sha256(text.encode()).hexdigest()


def test_exec_on_a_terminal_can_be_typed_at(pods: Crictl, sleeper: str) -> None:
    with Terminal(command=pods.command("exec", "-it", sleeper, "sh"), rows=33, columns=99) as terminal:
        terminal.type("stty size; echo in$((3))\n")
        terminal.expect("33 99")
        terminal.expect("in3")
        terminal.type("exit\n")

        assert terminal.wait() == 0


def test_attach_reaches_the_containers_own_input(pods: Crictl, pod: str) -> None:
    container = pods.start(pod, "sh", stdin=True, stdin_once=True)
    done = pods.run("attach", "-i", container, stdin="echo attached; exit 4\n")

    assert done.out == "attached\n"
    assert pods.wait_for_exit(container)["exitCode"] == 4
    pods.succeed("rm", container)


def test_output_goes_on_when_containerd_is_back(pods: Crictl, pod: str) -> None:
    wait = "echo before; until [ -e /tmp/go ]; do sleep 0.1; done; seq 1 20000; echo after"
    container = pods.start(pod, "sh", "-c", wait)
    pods.wait_for_log(container, "before")  # else containerd has it still in hand when it stops, and drops it
    pods.daemon.stop()
    pods.daemon.start()
    pods.succeed("exec", "-s", container, "touch", "/tmp/go")
    pods.wait_for_exit(container)
    lines = pods.succeed("logs", container).splitlines()
    pods.succeed("rm", container)

    assert lines == ["before", *map(str, range(1, 20001)), "after"]
