"""CRI-O runs pods in VMs by the shim, seen with crictl."""

import json
import platform
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd.images import IMAGE
from crio.daemon import Crio
from engine_fixtures import guest_image

__all__ = ["guest_image"]


@pytest.fixture(scope="module")
def crio(guest_image: Path) -> Iterator[Crio]:
    place = Path(tempfile.mkdtemp(prefix="kata-o-"))
    try:
        with Crio(place, guest_image, f"o{secrets.token_hex(4)}") as crio:
            yield crio
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_a_pod_of_cri_o_lives_in_a_vm_and_nothing_is_left_of_it(crio: Crio) -> None:
    metadata = {"name": crio.token, "uid": crio.token, "namespace": "default", "attempt": 1}
    pod_file = crio.write("pod.json", {"metadata": metadata, "log_directory": f"{crio.place}/log", "linux": {}})
    command = ["/bin/sh", "-c", "echo hello; trap 'exit 7' TERM; while :; do sleep 0.1; done"]
    described = {"metadata": {"name": "web"}, "image": {"image": IMAGE}, "command": command, "log_path": "web.log"}
    container_file = crio.write("container.json", {**described, "linux": {}})

    pod = crio.succeed("runp", "--runtime", "kata", pod_file)
    container = crio.succeed("create", pod, container_file, pod_file)
    crio.succeed("start", container)
    assert crio.succeed("exec", "--sync", container, "uname", "-r") != platform.release()
    assert crio.succeed("exec", "--interactive", container, "cat", stdin="data") == "data"
    assert crio.run("exec", "--sync", container, "sh", "-c", "exit 3").returncode != 0
    assert crio.succeed("logs", container) == "hello"
    [shown] = json.loads(crio.succeed("stats", "--all", "--output", "json"))["stats"]
    assert int(shown["memory"]["workingSetBytes"]["value"]) > 0
    crio.succeed("stop", "--timeout", "10", container)
    assert json.loads(crio.succeed("inspect", container))["status"]["exitCode"] == 7
    crio.succeed("rm", container)
    crio.succeed("stopp", pod)
    crio.succeed("rmp", pod)

    left = {line for line in crio.wait_until_clean(pod) if pod in line}
    assert not left
