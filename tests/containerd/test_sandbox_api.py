"""Sandboxes of containerd 2 that have no pause container, seen with ctr."""

import json
from collections.abc import Iterator

import pytest

from containerd.daemon import RUNTIME, Containerd
from containerd.images import IMAGE


@pytest.fixture
def sandbox(daemon: Containerd) -> Iterator[str]:
    """A sandbox, of the default sandboxer `shim`, that nobody has put a container into."""
    if "sandboxes" not in daemon.succeed("--help"):
        pytest.skip("this containerd has no Sandbox API that ctr can call: it came with 2.0")
    name = daemon.name("sandbox")
    spec = daemon.place / "sandbox.json"
    spec.write_text(json.dumps({"ociVersion": "1.1.0", "hostname": "the-sandbox"}))
    daemon.succeed("sandboxes", "run", "--runtime", RUNTIME, str(spec), name)
    try:
        yield name
    finally:
        daemon.run("sandboxes", "rm", "--force", name)


def test_a_sandbox_runs_without_a_container_outlives_its_last_and_leaves_nothing(
    daemon: Containerd, sandbox: str
) -> None:
    boot = ("sh", "-c", "hostname; cat /proc/sys/kernel/random/boot_id")
    assert any("qemu" in line for line in daemon.find_traces(sandbox))
    first = daemon.run_container(*boot, flags=("--sandbox", sandbox))
    second = daemon.run_container(*boot, flags=("--sandbox", sandbox))

    assert first.code == 0, first
    assert first.out == second.out
    daemon.succeed("sandboxes", "rm", "--force", sandbox)
    assert not daemon.wait_until_gone(sandbox)


def test_a_container_ends_with_its_sandbox(daemon: Containerd, sandbox: str) -> None:
    name = daemon.name("member")
    daemon.succeed("run", "-d", "--sandbox", sandbox, "--runtime", RUNTIME, IMAGE, name, "sleep", "1000")
    daemon.succeed("sandboxes", "rm", "--force", sandbox)
    daemon.run("tasks", "delete", "--force", name)
    daemon.succeed("containers", "rm", name)

    assert not daemon.wait_until_gone(name)
    assert name not in daemon.succeed("tasks", "ls", "-q").split()
