"""CRI-O runs pods in VMs by the shim, seen with crictl."""

import json
import os
import platform
import time
import urllib.request
from pathlib import Path

import pytest

from cri.container_tests import ContainerTests, pod, sleeper
from cri.images import BUSYBOX
from crio.crictl import CrioCrictl
from howto import find_block, follow

__all__ = ["pod", "sleeper"]


class TestContainers(ContainerTests):
    """By CRI-O."""


def test_a_stop_gives_the_container_time_to_end_by_itself(crictl: CrioCrictl, pod: str) -> None:
    container = crictl.start(pod, "sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done")
    crictl.wait_for_log(container, "ready")
    crictl.succeed("stop", "--timeout", "60", container)

    assert crictl.wait_for_exit(container)["exitCode"] == 7
    crictl.succeed("rm", container)


def test_a_container_that_heeds_no_signal_is_killed_after_the_grace(crictl: CrioCrictl, pod: str) -> None:
    container = crictl.start(pod, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    crictl.wait_for_log(container, "ready")
    crictl.succeed("stop", "--timeout", "1", container)

    assert crictl.wait_for_exit(container)["exitCode"] == 137
    crictl.succeed("rm", container)


def test_a_container_that_runs_out_of_memory_is_shown_as_such(crictl: CrioCrictl, pod: str) -> None:
    linux = {"resources": {"memory_limit_in_bytes": 32 << 20}}
    container = crictl.start(pod, "tail", "/dev/zero", linux=linux)
    status = crictl.wait_for_exit(container)

    assert (status["exitCode"], status["reason"]) == (137, "OOMKilled")
    crictl.succeed("rm", container)


def test_a_privileged_container_sees_no_device_of_the_host(crictl: CrioCrictl) -> None:
    security = {"security_context": {"privileged": True}}
    with crictl.hold_pod(linux=security) as pod:
        container = crictl.start(pod, "sleep", "1000", linux=security)

        assert crictl.execute(container, "find", "/dev", "-type", "b").out == ""
        assert crictl.execute(container, "mount", "-t", "tmpfs", "none", "/tmp").code == 0


def test_a_pod_has_the_address_that_the_network_plugin_gave(crictl: CrioCrictl, pod: str) -> None:
    address = crictl.read("inspectp", pod)["status"]["network"]["ip"]
    serve = "mkdir /www; echo from the pod > /www/index.html; exec httpd -f -p 80 -h /www"
    server = crictl.start(pod, "sh", "-c", serve)
    deadline = time.monotonic() + 60
    while ":80 " not in crictl.execute(server, "netstat", "-ltn").out:
        assert time.monotonic() < deadline, "the server does not listen"
    with urllib.request.urlopen(f"http://{address}/", timeout=60) as answer:
        assert answer.read() == b"from the pod\n"
    crictl.succeed("rm", "--force", server)


def test_volumes_of_the_host_are_shared_both_ways(crictl: CrioCrictl, pod: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host\n")
    mounts = [{"host_path": str(tmp_path), "container_path": "/volume"}]
    container = crictl.start(pod, "sh", "-c", "cp /volume/in /volume/out", mounts=mounts)

    assert crictl.wait_for_exit(container)["exitCode"] == 0
    crictl.succeed("rm", container)
    assert (tmp_path / "out").read_text() == "from the host\n"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_pods_go_on_without_cri_o_and_are_managed_by_the_next_one(crictl: CrioCrictl, end: str) -> None:
    with crictl.hold_pod() as pod:
        container = crictl.start(pod, "sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done")
        crictl.wait_for_log(container, "ready")
        machine = crictl.find_process(pod, "qemu-system")
        getattr(crictl.crio, end)()
        crictl.crio.start()

        assert crictl.find_process(pod, "qemu-system") == machine
        assert crictl.find_state(container) == "CONTAINER_RUNNING"
        assert crictl.execute(container, "echo", "still here", flags=("-s",)).out.strip() == "still here"
        assert int(crictl.read("stats", "--id", container)["stats"][0]["memory"]["workingSetBytes"]["value"]) > 0
        crictl.succeed("stop", "--timeout", "60", container)
        assert crictl.wait_for_exit(container)["exitCode"] == 7
    assert not crictl.wait_until_gone(pod)


def test_a_pod_whose_vm_was_killed_is_shown_as_ended_and_can_be_removed(crictl: CrioCrictl) -> None:
    with crictl.hold_pod() as pod:
        container = crictl.start(pod, "sleep", "1000")
        os.kill(crictl.find_process(pod, "qemu-system"), 9)

        assert crictl.wait_for_exit(container)["exitCode"] != 0
        crictl.succeed("stopp", pod)
        crictl.succeed("rmp", pod)
    assert not crictl.wait_until_gone(pod)


def test_nothing_is_left_of_a_pod_that_was_removed(crictl: CrioCrictl) -> None:
    with crictl.hold_pod() as pod:
        container = crictl.start(pod, "sleep", "1000")
        assert crictl.find_process(pod, "qemu-system")

    assert not crictl.wait_until_gone(pod)
    assert not crictl.wait_until_gone(container)
    assert crictl.run("inspectp", pod).code != 0


def test_the_words_of_the_how_to_page_do_what_it_says(crictl: CrioCrictl) -> None:
    place = crictl.daemon.place
    metadata = {"name": f"{crictl.token}-page", "namespace": "default", "uid": crictl.token}
    pod = {"metadata": metadata, "log_directory": str(crictl.logs), "linux": {"cgroup_parent": f"/{crictl.token}"}}
    container = {"metadata": {"name": "page"}, "image": {"image": BUSYBOX}, "command": ["sleep", "1000"]}
    (place / "pod.json").write_text(json.dumps(pod))
    (place / "container.json").write_text(json.dumps({**container, "log_path": "page.log", "linux": {}}))
    crictl.succeed("pull", BUSYBOX)
    shown = follow(find_block("crio", "crictl runp"), place, {"crictl": crictl.command()})

    assert platform.release() not in shown
    assert metadata["name"] not in crictl.succeed("pods")
