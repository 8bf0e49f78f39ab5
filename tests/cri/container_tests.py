"""What a pod's containers do behind every daemon that serves the CRI, and whichever way their streams go."""

import platform
from collections.abc import Iterator

import pytest

from cri.crictl import Crictl
from podman.engine import Terminal


@pytest.fixture(scope="module")
def pod(crictl: Crictl) -> Iterator[str]:
    """A pod that the module's tests share."""
    with crictl.hold_pod(hostname="the-pod") as pod:
        yield pod


@pytest.fixture(scope="module")
def sleeper(crictl: Crictl, pod: str) -> str:
    """A container that waits, shared by the tests that do not end it."""
    return crictl.start(pod, "sleep", "100000")


class ContainerTests:
    """Tests for a module with a fixture `crictl`, and the two above."""

    def test_a_pod_is_a_vm_with_its_own_kernel_and_name(self, crictl: Crictl, sleeper: str) -> None:
        kernel, name = crictl.execute(sleeper, "sh", "-c", "uname -r; hostname").out.split()

        assert kernel != platform.release()
        assert name == "the-pod"

    def test_the_containers_of_a_pod_share_a_vm(self, crictl: Crictl, pod: str, sleeper: str) -> None:
        other = crictl.start(pod, "sleep", "1000")
        boots = {crictl.execute(name, "cat", "/proc/sys/kernel/random/boot_id").out for name in (sleeper, other)}
        crictl.succeed("rm", "--force", other)

        assert len(boots) == 1
        assert crictl.find_state(sleeper) == "CONTAINER_RUNNING"

    def test_a_container_that_ends_shows_its_code_and_its_output_in_the_log(self, crictl: Crictl, pod: str) -> None:
        container = crictl.start(pod, "sh", "-c", "seq 1 50000; echo wrong >&2; exit 3")
        assert crictl.wait_for_exit(container)["exitCode"] == 3
        done = crictl.run("logs", container)
        crictl.succeed("rm", container)

        assert done.out == "".join(f"{number}\n" for number in range(1, 50001))
        assert "wrong\n" in done.err

    def test_exec_gives_output_input_and_failure(self, crictl: Crictl, sleeper: str) -> None:
        done = crictl.execute(sleeper, "sh", "-c", "cat; echo wrong >&2; exit 5", flags=("-i",), stdin="hello\n")

        assert (done.out, done.code != 0) == ("hello\n", True)
        assert "wrong" in done.err
        assert "code 5" in done.err

    def test_exec_sync_gives_output_and_ends_at_its_timeout(self, crictl: Crictl, sleeper: str) -> None:
        assert crictl.execute(sleeper, "echo", "text", flags=("-s",)).out.strip() == "text"

        late = crictl.execute(sleeper, "sleep", "4321", flags=("-s", "--timeout", "1"))
        processes = crictl.execute(sleeper, "ps").out

        assert late.code != 0
        assert "4321" not in processes

    def test_exec_on_a_terminal_can_be_typed_at(self, crictl: Crictl, sleeper: str) -> None:
        with Terminal(command=crictl.command("exec", "-it", sleeper, "sh"), rows=33, columns=99) as terminal:
            # CRI-O tells the size when the process has been started already.
            terminal.type("until stty size | grep '^33 99'; do :; done; echo in$((3))\n")
            terminal.expect("\r\n33 99", timeout=60)
            terminal.expect("in3")
            terminal.type("exit\n")

            assert terminal.wait() == 0

    def test_attach_reaches_the_containers_own_input(self, crictl: Crictl, pod: str) -> None:
        container = crictl.start(pod, "sh", stdin=True, stdin_once=True)
        done = crictl.run("attach", "-i", container, stdin="echo attached; exit 4\n")

        assert done.out == "attached\n"
        assert crictl.wait_for_exit(container)["exitCode"] == 4
        crictl.succeed("rm", container)

    def test_statistics_are_those_of_the_guest(self, crictl: Crictl, sleeper: str) -> None:
        [shown] = crictl.read("stats", "--id", sleeper)["stats"]

        assert int(shown["cpu"]["usageCoreNanoSeconds"]["value"]) > 0
        assert 0 < int(shown["memory"]["workingSetBytes"]["value"]) < 512 << 20

    def test_an_update_changes_the_limits_in_the_guest(self, crictl: Crictl, sleeper: str) -> None:
        crictl.succeed("update", "--memory", str(100 << 20), "--cpu-quota", "50000", "--cpu-period", "100000", sleeper)

        # On a host of cgroup v1 containerd asks for no cgroup namespace, so the container sees where its own is.
        show = "cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); cat memory.max cpu.max"
        shown = crictl.execute(sleeper, "sh", "-c", show)
        assert shown.out.split() == [str(100 << 20), "50000", "100000"], shown
