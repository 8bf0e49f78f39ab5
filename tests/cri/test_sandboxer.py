"""Pods whose sandbox the shim makes, without a pause container (`sandboxer = "shim"`), seen with crictl."""

import re
import time
from collections.abc import Iterator

import pytest

from cri.crictl import Crictl, require_sandbox_api
from engine import kill_process

_SHARED_PIDS = {"linux": {"security_context": {"namespace_options": {"pid": 0}}}}
_OWN_PIDS = {"linux": {"security_context": {"namespace_options": {"pid": 1}}}}
_DNS = {"servers": ["10.9.8.7"], "searches": ["a.test", "b.test"], "options": ["ndots:3"]}


@pytest.fixture(scope="module")
def pods(crictl: Crictl) -> Crictl:
    """The daemon of the module, with the handler under test."""
    require_sandbox_api(crictl)
    return Crictl(crictl.daemon, "kata-sandbox")


@pytest.fixture(scope="module")
def pod(pods: Crictl) -> Iterator[str]:
    """A pod that the module's tests share."""
    with pods.hold_pod(hostname="the-pod", dns_config=_DNS) as pod:
        yield pod


@pytest.fixture(scope="module")
def sleeper(pods: Crictl, pod: str) -> str:
    """A container that waits, shared by the tests that do not end it."""
    return pods.start(pod, "sleep", "100000", **_OWN_PIDS)


def test_the_pods_name_its_hosts_and_its_name_servers_are_in_its_containers(pods: Crictl, sleeper: str) -> None:
    shown = pods.execute(sleeper, "sh", "-c", "hostname; cat /etc/hostname /etc/resolv.conf; grep localhost /etc/hosts")

    name, *lines = shown.out.splitlines()
    assert (name, lines[0]) == ("the-pod", "the-pod")
    assert lines[1:4] == ["search a.test b.test", "nameserver 10.9.8.7", "options ndots:3"]
    assert "127.0.0.1" in lines[4]


def test_a_container_may_write_to_its_pods_files_and_another_sees_it(pods: Crictl, pod: str, sleeper: str) -> None:
    other = pods.start(pod, "sleep", "1000")
    written = pods.execute(other, "sh", "-c", "echo 10.1.1.1 added >> /etc/hosts")
    seen = pods.execute(sleeper, "grep", "added", "/etc/hosts")
    pods.succeed("rm", "--force", other)

    assert (written.code, seen.out) == (0, "10.1.1.1 added\n"), written


def test_a_read_only_container_cannot_write_to_them(pods: Crictl, pod: str) -> None:
    linux = {"linux": {"security_context": {"readonly_rootfs": True}}}
    container = pods.start(pod, "sleep", "1000", **linux)
    refused = pods.execute(container, "sh", "-c", "echo >> /etc/hosts")
    shown = pods.execute(container, "cat", "/etc/hostname")
    pods.succeed("rm", "--force", container)

    assert "Read-only file system" in refused.err
    assert shown.out == "the-pod\n"


def test_the_status_of_the_pod_tells_its_state_and_spec(pods: Crictl, pod: str, sleeper: str) -> None:
    shown = pods.read("inspectp", pod)

    assert shown["status"]["state"] == "SANDBOX_READY"
    assert shown["info"]["processStatus"] == "running"
    assert shown["info"]["runtimeSpec"]["hostname"] == "the-pod"
    assert sleeper in shown["kata"]["containers"]


def test_the_statistics_of_the_pod_are_those_of_its_containers(pods: Crictl, pod: str, sleeper: str) -> None:
    [shown] = pods.read("statsp", "--id", pod)["stats"]

    assert [container["attributes"]["id"] for container in shown["linux"]["containers"]] == [sleeper]
    assert int(shown["linux"]["memory"]["workingSetBytes"]["value"]) > 0
    assert int(shown["linux"]["cpu"]["usageCoreNanoSeconds"]["value"]) > 0


def test_containers_that_share_processes_outlive_each_other_and_those_that_do_not_are_alone(pods: Crictl) -> None:
    linux = {"cgroup_parent": f"/{pods.token}", **_SHARED_PIDS["linux"]}
    with pods.hold_pod(linux=linux) as pod:
        first = pods.start(pod, "sleep", "1111", **_SHARED_PIDS)
        second = pods.start(pod, "sleep", "2222", **_SHARED_PIDS)
        together = _list_sleepers(pods, second)
        pods.succeed("stop", "--timeout", "0", first)
        left = _list_sleepers(pods, second)
        alone = _list_sleepers(pods, pods.start(pod, "sleep", "3333", **_OWN_PIDS))

    assert (together, left, alone) == (["1111", "2222"], ["2222"], ["3333"])


def _list_sleepers(pods: Crictl, container: str) -> list[str]:
    """Return what the processes that a container sees sleep for."""
    return sorted(re.findall(r"sleep (\d+)$", pods.execute(container, "ps").out, re.MULTILINE))


def test_a_pod_that_is_removed_leaves_nothing(pods: Crictl) -> None:
    with pods.hold_pod() as pod:
        container = pods.start(pod, "sleep", "1000")
        assert pods.find_state(container) == "CONTAINER_RUNNING"
        assert any("qemu" in line for line in pods.find_traces(pod))

    assert not pods.wait_until_gone(pod)
    assert pods.run("inspectp", pod).code != 0


def test_a_pod_whose_vm_dies_is_not_ready(pods: Crictl) -> None:
    with pods.hold_pod() as pod:
        [qemu] = [int(line.split()[1].rstrip(":")) for line in pods.find_traces(pod) if "qemu-system" in line]
        kill_process(qemu)
        deadline = time.monotonic() + 30
        while pods.read("inspectp", pod)["status"]["state"] != "SANDBOX_NOTREADY":
            assert time.monotonic() < deadline
