"""How big a VM is, and what of it a pod may say: from the annotations of a bundle to what the guest sees."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import Change, Container, Engine, combine
from kata.sandbox.ledger import Kind, list_resources
from polling import wait_until

_HUGE_PAGES = 300  # of 2 MiB, for the 512 MiB of a test's VM
_PREFIX = "io.katacontainers.config.hypervisor."


def annotate(**annotations: str) -> Change:
    def change(spec: dict[str, Any]) -> None:
        spec["annotations"] = {**(spec.get("annotations") or {}), **annotations}

    return change


@pytest.fixture
def _opened(engine: Engine) -> Iterator[None]:
    """A configuration that opens the memory to pods, at the end of the hypervisor's table."""
    engine.configure('enable_annotations = ["default_memory"]\n')
    yield
    engine.configure("")


@pytest.fixture
def _pinning(engine: Engine) -> Iterator[None]:
    """A configuration that pins vCPUs."""
    engine.configure("[runtime]\nenable_vcpus_pinning = true\n")
    yield
    engine.configure("")


def list_vcpu_affinities(engine: Engine, sandbox: str) -> list[set[int]]:
    """Return the host's processors on which each vCPU of a VM may run."""
    processes = [
        value.split()[0]
        for kind, value in list_resources(str(engine.root / "sandboxes" / sandbox))
        if kind == Kind.PROCESS
    ]
    threads = [int(task.name) for pid in processes for task in Path(f"/proc/{pid}/task").glob("*") if is_vcpu(task)]
    return [os.sched_getaffinity(thread) for thread in threads]


def has_kvm(engine: Engine, sandbox: str) -> bool:
    """Say whether the VM runs on KVM: QEMU names the threads of vCPUs after it."""
    threads = Path(f"/proc/{engine.find_process('qemu', sandbox)}/task").glob("*/comm")
    return any(path.read_text().strip() == "CPU 0/KVM" for path in threads)


def is_vcpu(task: Path) -> bool:
    """Say whether a thread is a vCPU: QEMU names those `CPU 0/TCG` and so on."""
    try:
        return (task / "comm").read_text().startswith("CPU ")
    except OSError:  # a helper of QEMU's that has ended just now
        return False


@pytest.fixture
def _huge(engine: Engine) -> Iterator[None]:
    """A configuration for huge pages, and a host that has enough of them for one VM. Others' reserve is left alone."""
    reserve = Path("/proc/sys/vm/nr_hugepages")
    if not reserve.exists():
        pytest.skip("this host's kernel has no huge pages")
    before = int(reserve.read_text())
    try:
        reserve.write_text(str(before + _HUGE_PAGES))
        if int(reserve.read_text()) < before + _HUGE_PAGES:
            pytest.skip(f"this host's memory has no {_HUGE_PAGES} huge pages: it is too fragmented, or too small")
    except OSError as error:
        pytest.skip(f"huge pages cannot be reserved here: {error.strerror}")
    else:
        engine.configure("enable_hugepages = true\n")
        yield
    finally:
        engine.configure("")
        with contextlib.suppress(OSError):
            reserve.write_text(str(before))


def count_free_huge_pages() -> int:
    words = Path("/proc/meminfo").read_text().split()
    return int(words[words.index("HugePages_Free:") + 1]) if "HugePages_Free:" in words else 0


def find_memory(engine: Engine, change: Change) -> int:
    """Return the MiB of memory that a guest of its own says it has."""
    result = engine.run_container("sed", "-n", "s/MemTotal: *//p", "/proc/meminfo", change=change)
    assert result.code == 0, result.err
    return int(result.text.split()[0]) >> 10


def test_a_pods_limits_from_the_cri_size_its_vm(engine: Engine) -> None:
    limits = {
        "io.kubernetes.cri.sandbox-cpu-quota": "200000",
        "io.kubernetes.cri.sandbox-cpu-period": "100000",
        "io.kubernetes.cri.sandbox-memory": str(200 << 20),
    }

    assert 200 < find_memory(engine, annotate(**limits)) < 200 + 96


@pytest.mark.usefixtures("_opened")
def test_an_annotation_that_the_operator_opened_sizes_the_vm(engine: Engine) -> None:
    assert 200 < find_memory(engine, annotate(**{f"{_PREFIX}default_memory": "300"})) < 300


def test_an_annotation_that_nobody_opened_refuses_the_container_and_leaves_nothing(engine: Engine) -> None:
    result = engine.run_container("true", change=annotate(**{f"{_PREFIX}default_memory": "300"}))

    assert result.code != 0
    assert f"{_PREFIX}default_memory is not enabled" in result.err
    assert "enable_annotations" in result.err


def test_a_limit_too_small_to_run_with_is_refused_with_the_least_and_leaves_nothing(engine: Engine) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["resources"]["memory"] = {"limit": 300 << 10}

    result = engine.run_container("true", change=change, name="small")

    assert result.code != 0
    assert "-small cannot run with a memory limit of 307200 bytes" in result.err
    assert "the least is 1 MiB" in result.err


def test_an_update_to_a_limit_too_small_is_refused_and_the_container_goes_on(engine: Engine, pod: Container) -> None:
    with engine.hold("sleep", "1000", pod=pod.id) as held:
        result = engine.run("update", "--memory", "65536", held.id)
        assert result.code != 0
        assert f"container {held.id} cannot run with a memory limit of 65536 bytes" in result.err
        assert held.find_status() == "running"


@pytest.mark.usefixtures("_pinning")
def test_a_vcpu_stays_on_the_processor_of_the_cpuset_and_is_let_go_when_there_are_none(engine: Engine) -> None:
    allowed = os.sched_getaffinity(0)
    one = max(allowed)

    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["resources"]["cpu"] = {"cpus": str(one)}

    with engine.hold("sleep", "1000", change=change) as held:
        assert list_vcpu_affinities(engine, held.id) == [{one}]
        # More processors than vCPUs, of which this host need not have the second.
        engine.succeed("update", "--cpuset-cpus", "0-8191", held.id)
        assert list_vcpu_affinities(engine, held.id) == [{one} if len(allowed) == 1 else allowed]


@pytest.mark.usefixtures("_huge")
def test_a_vm_has_its_memory_in_huge_pages_and_gives_them_back(engine: Engine) -> None:
    free = count_free_huge_pages()

    with engine.hold("sleep", "1000"):
        assert count_free_huge_pages() <= free - 256

    assert count_free_huge_pages() == free


def test_a_vm_for_which_the_host_has_too_few_huge_pages_is_refused(engine: Engine) -> None:
    if not Path("/proc/sys/vm/nr_hugepages").exists():
        pytest.skip("this host's kernel has no huge pages")
    lots = (count_free_huge_pages() + 100) * 2
    engine.configure(f"enable_hugepages = true\noverhead_memory = {lots}\n")
    try:
        result = engine.run_container("true", change=annotate(**{"io.kubernetes.cri.sandbox-memory": str(200 << 20)}))
    finally:
        engine.configure("")

    assert result.code != 0
    assert "start failed in phase hypervisor" in result.err
    assert "guest RAM: Cannot allocate memory" in result.err


@pytest.fixture
def _growing(engine: Engine) -> Iterator[None]:
    """A configuration of VMs that grow: 512 MiB and one processor to begin with, 1536 MiB and two at most."""
    engine.configure("default_maxmemory = 1536\n[runtime]\nstatic_sandbox_resource_mgmt = false\n")
    yield
    engine.configure("")


def limit(*, memory_mib: int, cpus: float = 0) -> Change:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["resources"]["memory"] = {"limit": memory_mib << 20}
        spec["linux"]["namespaces"].append({"type": "cgroup"})
        if cpus:
            spec["linux"]["resources"]["cpu"] = {"quota": int(cpus * 100_000), "period": 100_000}

    return change


def see_size(container: Container) -> tuple[int, int]:
    """Return the processors that a container may use, and the MiB of memory in all."""
    text = container.ask("sh", "-c", "nproc; sed -n 's/MemTotal: *//p' /proc/meminfo").split()
    return int(text[0]), int(text[1]) >> 10


@pytest.mark.usefixtures("_growing")
def test_a_vm_grows_with_its_containers_and_with_their_limits_and_shrinks_again(engine: Engine) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this host has one processor, so no VM can have a second")
    with engine.hold("sleep", "1000", change=limit(memory_mib=300, cpus=1)) as first:
        began = see_size(first)
        assert began[0] == 1
        with engine.hold("sleep", "1000", pod=first.id, change=limit(memory_mib=400, cpus=0.5)) as second:
            # One device adds to the VM what both need: 300 + 400 + 96 in place of 300 + 96.
            vcpus, memory = see_size(second)
            assert vcpus == 2
            assert began[1] + 380 < memory <= began[1] + 400
            assert see_size(first) == (vcpus, memory)

            engine.succeed("update", "--memory", "700M", second.id)
            assert began[1] + 670 < see_size(first)[1] <= began[1] + 700
            assert second.ask("cat", "/sys/fs/cgroup/memory.max") == f"{700 << 20}\n"

            result = engine.run("update", "--memory", "2G", second.id)
            assert result.code != 0
            assert "the most that this one can have is 1536 MiB" in result.err
            assert second.find_status() == "running"
            assert see_size(first)[1] <= began[1] + 700

            engine.succeed("update", "--memory", "100M", second.id)
            wait_until(lambda: see_size(first)[1] < began[1] + 200)
        wait_until(lambda: see_size(first)[1] < began[1] + 100)
        if has_kvm(engine, first.sandbox):  # without it a processor that came stays
            assert see_size(first)[0] == 1


@pytest.mark.usefixtures("_growing")
def test_a_container_for_which_its_vm_cannot_grow_is_refused_and_the_others_go_on(engine: Engine) -> None:
    with engine.hold("sleep", "1000", change=limit(memory_mib=300)) as first:
        began = see_size(first)
        result = engine.run_container("true", pod=first.id, change=limit(memory_mib=1400))
        assert result.code != 0
        assert "the containers need a VM of 1796 MiB" in result.err
        assert "the most that this one can have is 1536 MiB" in result.err
        assert see_size(first) == began


@pytest.mark.usefixtures("_growing")
def test_a_vm_grows_by_the_huge_pages_that_a_container_may_have(engine: Engine) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["resources"]["hugepageLimits"] = [{"pageSize": "2MB", "limit": 600 << 20}]

    with engine.hold("sleep", "1000", change=limit(memory_mib=300)) as first:
        began = see_size(first)[1]
        with engine.hold("sleep", "1000", pod=first.id, change=combine(limit(memory_mib=100), change)) as second:
            assert second.ask("awk", "/HugePages_Total/ { print $2 }", "/proc/meminfo") == "300\n"
            assert began + 680 < see_size(first)[1] <= began + 700
        wait_until(lambda: see_size(first)[1] < began + 200)
