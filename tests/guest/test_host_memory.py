"""Where the host accounts a sandbox, and what becomes of it when memory runs out: the guest's, or the host's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import Change, Container, Engine
from guest.test_sizes import is_vcpu
from polling import wait_until

_HOG = ("dd", "if=/dev/zero", "of=/dev/null", "count=1")
_IS_UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
_MEMORY = Path("/sys/fs/cgroup" if _IS_UNIFIED else "/sys/fs/cgroup/memory")
_USAGE, _LIMIT = ("memory.current", "memory.max") if _IS_UNIFIED else ("memory.usage_in_bytes", "memory.limit_in_bytes")


@pytest.fixture
def _split(engine: Engine) -> Iterator[None]:
    """A configuration that accounts only the vCPUs to the pod."""
    engine.configure("[runtime]\nsandbox_cgroup_only = false\n")
    yield
    engine.configure("")


@pytest.fixture
def _reclaiming(engine: Engine) -> Iterator[None]:
    """A configuration of VMs that give back what they freed."""
    engine.configure("reclaim_guest_freed_memory = true\n")
    yield
    engine.configure("")


def find_cgroups(task: str) -> dict[str, str]:
    """Return the cgroup of a process or a thread by controller; that of version 2 has an empty name."""
    rows = [line.split(":", 2) for line in Path(f"/proc/{task}/cgroup").read_text().splitlines()]
    return {controller: path for _, controllers, path in rows for controller in controllers.split(",")}


def read_kib(pid: int, name: str) -> int:
    """Return a figure of a process's memory; what it shares with virtiofsd counts half in `Pss`."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def score(value: int) -> Change:
    def change(spec: dict[str, Any]) -> None:
        spec["process"]["oomScoreAdj"] = value

    return change


def list_host_processes(engine: Engine, sandbox: str) -> list[int]:
    return [engine.find_process(role, sandbox) for role in ("serve", "qemu", "virtiofsd")]


def test_all_that_runs_for_a_pod_is_in_its_cgroup_and_its_statistics(engine: Engine) -> None:
    with engine.hold("sleep", "1000") as held:
        path = f"/{engine.token}/{held.id}"
        for pid in list_host_processes(engine, held.id):
            found = find_cgroups(str(pid))
            assert {found[name] for name in (("",) if _IS_UNIFIED else ("cpu", "memory"))} == {path}
        assert int(Path(f"{_MEMORY}{path}/{_USAGE}").read_text()) > 64 << 20


@pytest.mark.usefixtures("_split")
def test_only_the_vcpus_are_in_the_pods_cgroup_where_the_operator_wants_that(engine: Engine) -> None:
    with engine.hold("sleep", "1000") as held:
        pod, overhead = f"/{engine.token}/{held.id}", f"/kata_overhead/{held.id}"
        daemon, qemu, virtiofsd = list_host_processes(engine, held.id)
        threads = [task for task in Path(f"/proc/{qemu}/task").iterdir() if is_vcpu(task)]
        assert len(threads) == 1
        for pid in (daemon, virtiofsd):
            assert set(find_cgroups(str(pid)).values()) <= {overhead, "/"}
        if _IS_UNIFIED:
            assert find_cgroups(str(qemu))[""] == pod
        else:
            inside = find_cgroups(f"{qemu}/task/{threads[0].name}")
            assert {inside[name] for name in ("cpu", "cpuacct", "cpuset")} == {pod}
            assert (inside["memory"], find_cgroups(str(qemu))["cpu"]) == (overhead, overhead)
            before = int(Path(f"/sys/fs/cgroup/cpuacct{pod}/cpuacct.usage").read_text())
            held.ask("sh", "-c", "for i in $(seq 20000); do :; done")
            assert int(Path(f"/sys/fs/cgroup/cpuacct{pod}/cpuacct.usage").read_text()) > before


def test_a_container_without_a_limit_that_takes_all_of_the_guests_memory_is_killed_alone(
    engine: Engine, pod: Container
) -> None:
    with engine.hold(*_HOG, "bs=460M", pod=pod.id, name="hog") as hog:
        assert hog.wait(timeout=60) == 137
        wait_until((hog.bundle / "oom").exists)
    assert pod.ask("echo", "alive") == "alive\n"


def test_a_vm_that_the_hosts_limit_kills_ends_its_containers_as_out_of_memory_and_the_log_names_the_limit(
    engine: Engine,
) -> None:
    with engine.hold("sleep", "1000", change=score(300)) as held:
        path = f"/{engine.token}/{held.id}"
        limit = (int(Path(f"{_MEMORY}{path}/{_USAGE}").read_text()) >> 20) + 48 << 20
        Path(f"{_MEMORY}{path}/{_LIMIT}").write_text(str(limit))
        with engine.start("exec", held.id, *_HOG, "bs=200M") as hog:
            assert held.wait(timeout=60) == 137
            hog.communicate(timeout=60)
            assert hog.returncode == 137
        wait_until((held.bundle / "oom").exists)
        assert held.find_status() == "stopped"
        said = [json.loads(line)["msg"] for line in engine.succeed("logs", "--source", "service", held.id).splitlines()]
        reason = f"the host killed the VM, because the cgroup {path} has reached its memory limit of {limit} bytes"
        assert f"the VM ended: {reason}" in said


def test_the_host_may_kill_a_vm_as_readily_as_its_most_expendable_container(engine: Engine) -> None:
    def stand_for_a_pod(spec: dict[str, Any]) -> None:
        spec["annotations"] = {"io.kubernetes.cri.container-type": "sandbox"}
        spec["process"]["oomScoreAdj"] = 900

    with engine.hold("sleep", "1000", change=stand_for_a_pod) as pause:
        qemu = Path(f"/proc/{engine.find_process('qemu', pause.id)}/oom_score_adj")
        assert qemu.read_text() == "0\n"
        with engine.hold("sleep", "1000", pod=pause.id, change=score(300)):
            assert qemu.read_text() == "300\n"


@pytest.mark.usefixtures("_reclaiming")
def test_memory_that_a_container_took_and_freed_comes_back_to_the_host(engine: Engine) -> None:
    with engine.hold("sleep", "1000") as held:
        qemu = engine.find_process("qemu", held.id)
        before = read_kib(qemu, "Rss")
        held.ask(*_HOG, "bs=200M")
        spike = read_kib(qemu, "Rss")
        assert spike > before + (150 << 10)
        wait_until(lambda: read_kib(qemu, "Rss") < before + (50 << 10))
