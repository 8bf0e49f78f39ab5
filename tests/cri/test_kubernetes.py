"""What kubernetes.md says, with crictl in the kubelet's place: its RuntimeClass' handler, and what a pod takes."""

import contextlib
import json
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cri.crictl import Crictl
from cri.daemon import CriDaemon
from cri.images import add_base_images
from howto import find_block
from netns import enter_network_namespace
from peers import require_installed, require_program

_UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}
_MEMORY = Path("/sys/fs/cgroup/memory")
# Debian's, as its parser is no part of Python's library.
_PARSE = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"


def _read_manifest(kind: str) -> dict[str, Any]:
    done = subprocess.run(
        ["/usr/bin/python3", "-c", _PARSE],
        input=find_block("kubernetes", f"kind: {kind}", "yaml"),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if "No module named 'yaml'" in done.stderr:
        pytest.skip("MISSING python3-yaml: the manifests are not read; run tools/install-host-packages test")
    assert done.returncode == 0, done.stderr
    manifest: dict[str, Any] = json.loads(done.stdout)
    return manifest


def _read_bytes(quantity: str) -> int:
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]


def _hold_pod(crictl: Crictl) -> contextlib.AbstractContextManager[str]:
    """Have a pod as a kubelet asks for one: with the limits of the page's pod, and the class's overhead."""
    fixed = _read_manifest("RuntimeClass")["overhead"]["podFixed"]
    [container] = _read_manifest("Pod")["spec"]["containers"]
    sizes = {
        "overhead": {"memory_limit_in_bytes": _read_bytes(fixed["memory"])},
        "resources": {"memory_limit_in_bytes": _read_bytes(container["resources"]["limits"]["memory"])},
    }
    return crictl.hold_pod(linux={"cgroup_parent": f"/{crictl.token}", **sizes})


@contextlib.contextmanager
def _limit_pods(crictl: Crictl, limit: int) -> Iterator[Path]:
    """Have the cgroup of a pod as a kubelet makes it, with a limit in bytes, and yield its directory."""
    group = _MEMORY / crictl.token
    if not (_MEMORY / "memory.limit_in_bytes").exists():
        pytest.skip("NO MEMORY CONTROLLER of cgroup v1: nothing shows what a pod takes")
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(limit))
    yield group


@pytest.mark.timeout(300)
def test_a_pod_that_uses_all_its_memory_stays_within_its_limit_and_the_overhead_of_the_class(crictl: Crictl) -> None:
    fixed = _read_bytes(_read_manifest("RuntimeClass")["overhead"]["podFixed"]["memory"])
    [container] = _read_manifest("Pod")["spec"]["containers"]
    limit = _read_bytes(container["resources"]["limits"]["memory"])
    with _limit_pods(crictl, limit + fixed) as group, _hold_pod(crictl) as pod:
        held = crictl.start(pod, "sleep", "100000", linux={"resources": {"memory_limit_in_bytes": limit}})
        fill = f'BEGIN {{ for (i = 0; i < {(limit >> 20) * 7 // 8}; i++) a[i] = sprintf("%1048576s", i); print i }}'
        filled = crictl.execute(held, "awk", fill)
        peak = int((group / "memory.max_usage_in_bytes").read_text())
        kills = dict(line.split() for line in (group / "memory.oom_control").read_text().splitlines())

        assert filled.out.strip() == str((limit >> 20) * 7 // 8), filled
        assert crictl.execute(held, "true").code == 0
        assert int(kills["oom_kill"]) == 0
        assert limit < peak, f"only {peak >> 20} MiB were used: the cgroup is not the pod's"


@pytest.mark.timeout(300)
def test_the_handler_of_the_class_runs_pods_in_debians_containerd(guest_image: Path) -> None:
    handler = _read_manifest("RuntimeClass")["handler"]
    assert _read_manifest("Pod")["spec"]["runtimeClassName"] == _read_manifest("RuntimeClass")["metadata"]["name"]
    require_program("cri-tools", "crictl")
    place = Path(tempfile.mkdtemp(prefix="kata-k-"))
    try:
        daemon = CriDaemon(place, guest_image, add_base_images, require_installed("containerd"))
        with enter_network_namespace(), daemon:
            crictl = Crictl(daemon, handler)
            with crictl.hold_pod() as pod:
                container = crictl.start(pod, "sleep", "1000")
                assert crictl.execute(container, "uname", "-r").out.strip() not in ("", platform.release())
    finally:
        shutil.rmtree(place, ignore_errors=True)
