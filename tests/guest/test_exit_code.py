"""What a container's end looks like to an engine."""

import signal

import pytest
from engine import Container, Engine


@pytest.mark.parametrize("code", [0, 1, 42, 127, 128, 255])
def test_the_exit_code_of_a_process_is_that_of_the_command(pod: Container, code: int) -> None:
    assert pod.execute("sh", "-c", f"exit {code}").code == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
def test_a_process_that_dies_of_a_signal_exits_with_128_and_its_number(pod: Container, number: int) -> None:
    assert pod.execute("sh", "-c", f"kill -{number} $$; sleep 10").code == 128 + number


def test_a_container_of_the_pod_exits_with_its_own_code(engine: Engine, pod: Container) -> None:
    result = engine.run_container("sh", "-c", "echo out; echo err >&2; exit 7", pod=pod.id)
    assert (result.code, result.out, result.err) == (7, b"out\n", "err\n")
