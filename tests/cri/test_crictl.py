"""Pods and containers by Kubernetes' CRI: containerd with the handler `kata`, seen with crictl."""

import time
import urllib.request
from pathlib import Path

import pytest

from cri.container_tests import ContainerTests, pod, sleeper
from cri.crictl import Crictl
from podman.engine import Terminal

__all__ = ["pod", "sleeper"]


class TestContainers(ContainerTests):
    """By containerd."""


def test_a_pods_limits_size_its_vm(crictl: Crictl) -> None:
    limits = {"memory_limit_in_bytes": 200 << 20, "cpu_period": 100_000, "cpu_quota": 200_000}
    with crictl.hold_pod(linux={"cgroup_parent": f"/{crictl.token}", "resources": limits}) as pod:
        container = crictl.start(pod, "sleep", "1000")
        memory = crictl.execute(container, "cat", "/proc/meminfo").out

    assert 200 << 10 < int(memory.split()[1]) < (200 + 96) << 10


def test_the_statistics_of_a_pod_name_its_containers(crictl: Crictl, pod: str, sleeper: str) -> None:
    [shown] = crictl.read("statsp", "--id", pod)["stats"]

    assert [container["attributes"]["id"] for container in shown["linux"]["containers"]] == [sleeper]
    assert int(shown["linux"]["memory"]["workingSetBytes"]["value"]) > 0


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


def test_a_pod_on_the_hosts_network_is_refused(crictl: Crictl) -> None:
    linux = {"cgroup_parent": f"/{crictl.token}", "security_context": {"namespace_options": {"network": 2}}}
    with (
        pytest.raises(AssertionError, match=r"on the host.+s network cannot run in a VM"),
        crictl.hold_pod(linux=linux),
    ):
        pass


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
