"""Pods and containers by Kubernetes' CRI: containerd with the handler `kata`, seen with crictl."""

import platform
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

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


def test_a_pod_is_a_vm_with_its_own_kernel_and_name(crictl: Crictl, sleeper: str) -> None:
    done = crictl.execute(sleeper, "sh", "-c", "uname -r; hostname")

    kernel, name = done.out.split()
    assert kernel != platform.release()
    assert name == "the-pod"


def test_a_pods_limits_size_its_vm(crictl: Crictl) -> None:
    limits = {"memory_limit_in_bytes": 200 << 20, "cpu_period": 100_000, "cpu_quota": 200_000}
    with crictl.hold_pod(linux={"cgroup_parent": f"/{crictl.token}", "resources": limits}) as pod:
        container = crictl.start(pod, "sleep", "1000")
        memory = crictl.execute(container, "cat", "/proc/meminfo").out

    assert 200 << 10 < int(memory.split()[1]) < (200 + 96) << 10


def test_the_containers_of_a_pod_share_a_vm(crictl: Crictl, pod: str, sleeper: str) -> None:
    other = crictl.start(pod, "sleep", "1000")
    boots = {crictl.execute(name, "cat", "/proc/sys/kernel/random/boot_id").out for name in (sleeper, other)}
    crictl.succeed("stop", "--timeout", "0", other)
    crictl.succeed("rm", other)

    assert len(boots) == 1
    assert crictl.find_state(sleeper) == "CONTAINER_RUNNING"


def test_a_container_that_ends_shows_its_code_and_its_output_in_the_log(crictl: Crictl, pod: str) -> None:
    container = crictl.start(pod, "sh", "-c", "echo to-the-log; echo wrong >&2; exit 3")
    assert crictl.wait_for_exit(container)["exitCode"] == 3
    done = crictl.run("logs", container)
    assert (done.out, "wrong\n" in done.err) == ("to-the-log\n", True)
    crictl.succeed("rm", container)


def test_exec_gives_output_input_and_failure(crictl: Crictl, sleeper: str) -> None:
    done = crictl.execute(sleeper, "sh", "-c", "cat; echo wrong >&2; exit 5", flags=("-i",), stdin="hello\n")

    assert (done.out, done.code != 0) == ("hello\n", True)
    assert "wrong" in done.err
    assert "exit code 5" in done.err or "code 5" in done.err


def test_exec_sync_gives_output_and_ends_at_its_timeout(crictl: Crictl, sleeper: str) -> None:
    assert crictl.execute(sleeper, "echo", "text", flags=("-s",)).out.strip() == "text"

    late = crictl.execute(sleeper, "sleep", "4321", flags=("-s", "--timeout", "1"))
    processes = crictl.execute(sleeper, "ps").out

    assert late.code != 0
    assert "4321" not in processes


def test_exec_on_a_terminal_can_be_typed_at(crictl: Crictl, sleeper: str) -> None:
    with Terminal(command=crictl.command("exec", "-it", sleeper, "sh"), rows=33, columns=99) as terminal:
        terminal.type("stty size; echo in$((3))\n")
        terminal.expect("33 99")
        terminal.expect("in3")
        terminal.type("exit\n")

        assert terminal.wait() == 0


def test_attach_reaches_the_containers_own_input(crictl: Crictl, pod: str) -> None:
    container = crictl.start(pod, "sh", stdin=True, stdin_once=True)
    done = crictl.run("attach", "-i", container, stdin="echo attached; exit 4\n")

    assert done.out == "attached\n"
    assert crictl.wait_for_exit(container)["exitCode"] == 4
    crictl.succeed("rm", container)


def test_statistics_are_those_of_the_guest(crictl: Crictl, sleeper: str) -> None:
    [shown] = crictl.read("stats", "--id", sleeper)["stats"]

    assert int(shown["cpu"]["usageCoreNanoSeconds"]["value"]) > 0
    assert 0 < int(shown["memory"]["workingSetBytes"]["value"]) < 512 << 20


def test_the_statistics_of_a_pod_name_its_containers(crictl: Crictl, pod: str, sleeper: str) -> None:
    [shown] = crictl.read("statsp", "--id", pod)["stats"]

    assert [container["attributes"]["id"] for container in shown["linux"]["containers"]] == [sleeper]
    assert int(shown["linux"]["memory"]["workingSetBytes"]["value"]) > 0


def test_an_update_changes_the_limits_in_the_guest(crictl: Crictl, sleeper: str) -> None:
    crictl.succeed("update", "--memory", str(100 << 20), "--cpu-quota", "50000", "--cpu-period", "100000", sleeper)

    # On a host of cgroup v1 containerd asks for no cgroup namespace, so the container sees where its own is.
    show = "cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); cat memory.max cpu.max"
    shown = crictl.execute(sleeper, "sh", "-c", show)
    assert shown.out.split() == [str(100 << 20), "50000", "100000"], shown


def test_volumes_of_the_host_are_shared_both_ways(crictl: Crictl, pod: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host\n")
    mounts = [
        {"host_path": str(tmp_path), "container_path": "/volume"},
        {"host_path": str(tmp_path / "in"), "container_path": "/file", "readonly": True},
    ]
    container = crictl.start(pod, "sh", "-c", "cat /file; cp /volume/in /volume/out; echo > /file", mounts=mounts)
    crictl.wait_for_exit(container)

    done = crictl.run("logs", container)
    crictl.succeed("rm", container)
    assert done.out == "from the host\n"
    assert "Read-only file system" in done.err
    assert (tmp_path / "out").read_text() == "from the host\n"


def test_a_port_of_the_pod_is_forwarded(crictl: Crictl, pod: str) -> None:
    serve = "echo from the pod > /tmp/index.html; exec httpd -f -p 127.0.0.1:8080 -h /tmp"
    server = crictl.start(pod, "sh", "-c", serve)
    _wait_for_server(crictl, server, 8080)
    with Terminal(command=crictl.command("port-forward", pod, "18080:8080")) as forward:
        forward.expect("Forwarding from 127.0.0.1:18080")

        with urllib.request.urlopen("http://127.0.0.1:18080/", timeout=30) as answer:
            assert answer.read() == b"from the pod\n"
    crictl.succeed("rm", "--force", server)


def test_a_pods_sysctl_is_set_in_the_guest(crictl: Crictl) -> None:
    linux = {"cgroup_parent": f"/{crictl.token}", "sysctls": {"kernel.shm_rmid_forced": "1"}}
    with crictl.hold_pod(linux=linux) as pod:
        container = crictl.start(pod, "sleep", "1000")

        assert crictl.execute(container, "cat", "/proc/sys/kernel/shm_rmid_forced").out == "1\n"


def test_nothing_is_left_of_a_pod_that_was_removed(crictl: Crictl) -> None:
    with crictl.hold_pod() as pod:
        container = crictl.start(pod, "sleep", "1000")
        assert any("qemu" in line for line in crictl.find_traces(pod))

    assert not crictl.find_traces(pod)
    assert not crictl.find_traces(container)
    assert crictl.run("inspectp", pod).code != 0


def _wait_for_server(crictl: Crictl, container: str, port: int, *, timeout: float = 30.0) -> None:
    """crictl's forwarding ends with the first connection that nobody takes, so the server must be there before it."""
    deadline = time.monotonic() + timeout
    while f":{port} " not in crictl.execute(container, "netstat", "-ltn").out:
        assert time.monotonic() < deadline, f"nothing listens on port {port} of {container}"
