"""How big a VM is, and what of it a pod may say: from the annotations of a bundle to what the guest sees."""

from collections.abc import Iterator
from typing import Any

import pytest

from engine import Change, Container, Engine

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
