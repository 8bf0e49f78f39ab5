"""Containers whose stdio goes over the shim's socket instead of FIFOs (`io_type = "streaming"`), seen with crictl."""

import hashlib

import pytest

from cri.container_tests import ContainerTests, pod, sleeper
from cri.crictl import Crictl, require_sandbox_api

__all__ = ["pod", "sleeper"]


@pytest.fixture(scope="module")
def crictl(crictl: Crictl) -> Crictl:
    """The daemon of the module, with the handler under test."""
    require_sandbox_api(crictl)
    return Crictl(crictl.daemon, "kata-streaming")


class TestContainers(ContainerTests):
    """By the shim's socket."""


def test_more_input_than_the_window_holds_arrives_whole(crictl: Crictl, sleeper: str) -> None:
    text = "".join(f"line {number}\n" for number in range(100_000))
    done = crictl.execute(sleeper, "sha256sum", flags=("-i",), stdin=text)

    assert done.out.split()[0] == hashlib.sha256(text.encode()).hexdigest()


def test_output_goes_on_when_containerd_is_back(crictl: Crictl, pod: str) -> None:
    wait = "echo before; until [ -e /tmp/go ]; do sleep 0.1; done; seq 1 20000; echo after"
    container = crictl.start(pod, "sh", "-c", wait)
    crictl.wait_for_log(container, "before")  # else containerd has it still in hand when it stops, and drops it
    crictl.daemon.stop()
    crictl.daemon.start()
    crictl.succeed("exec", "-s", container, "touch", "/tmp/go")
    crictl.wait_for_exit(container)
    crictl.wait_for_log(container, "after")  # of what it takes up again containerd tells the end first
    lines = crictl.succeed("logs", container).splitlines()
    crictl.succeed("rm", container)

    assert lines == ["before", *map(str, range(1, 20001)), "after"]
