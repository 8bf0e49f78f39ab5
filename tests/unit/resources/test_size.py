import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.config.model import GUEST_OVERHEAD_MIB, LEAST_MEMORY_MIB, HypervisorConfig
from kata.errors import ConfigError, UsageError
from kata.resources.host import HostSize, measure_host
from kata.resources.size import (
    LEAST_LIMIT_MIB,
    Limits,
    VmSize,
    check_huge_pages,
    check_memory_limit,
    fit_containers,
    leave_room,
    merge_resources,
    read_limits,
    size_vm,
)

_HOST = HostSize(cpus=8, memory_mib=16384)
_CONFIG = HypervisorConfig(default_vcpus=3, default_memory=1000)
_JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())


def _size(*, quota: Any = None, period: Any = None, limit: Any = None) -> VmSize:
    resources = {"cpu": {"quota": quota, "period": period}, "memory": {"limit": limit}}
    return size_vm({"linux": {"resources": resources}}, _CONFIG, _HOST)


@pytest.mark.parametrize("spec", [{}, {"linux": None}, {"linux": {"resources": {"cpu": None, "memory": {}}}}])
def test_a_spec_without_limits_gets_the_configured_size(spec: dict[str, Any]) -> None:
    assert size_vm(spec, _CONFIG, _HOST) == VmSize(3, 1000)


@pytest.mark.parametrize(
    ("quota", "period", "vcpus"),
    [
        (50_000, 100_000, 1),
        (150_000, 100_000, 2),
        (200_000, None, 2),
        (200_000, 0, 2),
        (-1, 100_000, 3),
        (0, 100_000, 3),
        (800_001, 100_000, 8),
        ((1 << 63) - 1, 1, 8),
    ],
)
def test_a_quota_counts_in_whole_vcpus_and_never_in_more_than_the_host_has(
    quota: int, period: int | None, vcpus: int
) -> None:
    assert _size(quota=quota, period=period).vcpus == vcpus


@pytest.mark.parametrize("limit", [0, -1, _HOST.memory_mib << 20, (1 << 63) - 4096, (1 << 63) - 1])
def test_a_limit_that_limits_nothing_leaves_the_configured_memory(limit: int) -> None:
    assert _size(limit=limit).memory_mib == 1000


def test_a_limit_is_rounded_up_and_the_guests_own_needs_come_on_top() -> None:
    assert _size(limit=(512 << 20) + 1).memory_mib == 512 + 2 + GUEST_OVERHEAD_MIB
    assert _size(limit=1).memory_mib == LEAST_MEMORY_MIB


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"quota": 1 << 63}, "cpu.quota"),
        ({"period": -1}, "cpu.period"),
        ({"limit": 1.5}, "memory.limit"),
        ({"limit": "512"}, "memory.limit"),
        ({"limit": True}, "memory.limit"),
    ],
)
def test_what_is_no_64_bit_integer_is_refused_by_its_name(limits: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=f"linux.resources.{name} is"):
        _size(**limits)


def test_a_limit_with_which_no_container_runs_is_refused_by_name_with_the_least() -> None:
    with pytest.raises(
        UsageError, match=r"container c1 .* limit of 65536 bytes \(the least is 1 MiB \(1048576 bytes\)\)"
    ):
        check_memory_limit("c1", {"memory": {"limit": 65536}})


@pytest.mark.parametrize("limit", [None, -1, 0, LEAST_LIMIT_MIB << 20, (1 << 63) - 1])
def test_a_limit_with_which_a_container_can_run_is_left_to_it(limit: int | None) -> None:
    check_memory_limit("c1", {"memory": {"limit": limit}})
    check_memory_limit("c1", {})


def _size_pod(annotations: dict[str, Any], config: HypervisorConfig = _CONFIG) -> VmSize:
    container = {"cpu": {"quota": 700_000}, "memory": {"limit": 700 << 20}}
    return size_vm({"annotations": annotations, "linux": {"resources": container}}, config, _HOST)


def test_the_limits_that_containerd_tells_of_the_pod_come_before_the_containers() -> None:
    size = _size_pod(
        {
            "io.kubernetes.cri.sandbox-cpu-quota": "250000",
            "io.kubernetes.cri.sandbox-cpu-period": "100000",
            "io.kubernetes.cri.sandbox-cpu-shares": "2560",
            "io.kubernetes.cri.sandbox-memory": str(512 << 20),
        }
    )
    assert size == VmSize(3, 512 + GUEST_OVERHEAD_MIB)


@pytest.mark.parametrize("key", ["io.kubernetes.cri-o.PodLinuxResources", "pod-linux-resources.crio.io"])
def test_the_limits_that_cri_o_tells_of_the_pod_come_before_the_containers(key: str) -> None:
    size = _size_pod({key: f'{{"cpu_period":50000,"cpu_quota":100000,"memory_limit_in_bytes":{300 << 20}}}'})
    assert size == VmSize(2, 300 + GUEST_OVERHEAD_MIB)


def test_a_pod_of_cri_o_that_was_told_no_limits_is_sized_by_its_first_container() -> None:
    assert _size_pod({"pod-linux-resources.crio.io": "null"}) == VmSize(7, 700 + GUEST_OVERHEAD_MIB)


def test_a_pod_with_a_cpu_limit_only_has_the_configured_memory() -> None:
    assert _size_pod({"io.kubernetes.cri.sandbox-cpu-quota": "200000"}) == VmSize(2, 1000)


def test_a_pod_without_limits_is_sized_by_its_first_container() -> None:
    names = ("cpu-quota", "cpu-period", "memory")
    size = _size_pod({f"io.kubernetes.cri.sandbox-{name}": "0" for name in names})
    assert size == VmSize(7, 700 + GUEST_OVERHEAD_MIB)


@pytest.mark.parametrize(
    "annotations",
    [
        {"io.kubernetes.cri.sandbox-memory": "much"},
        {"io.kubernetes.cri.sandbox-memory": "9" * 4000},
        {"io.kubernetes.cri.sandbox-cpu-quota": ""},
        {"io.kubernetes.cri-o.PodLinuxResources": "{"},
        {"io.kubernetes.cri-o.PodLinuxResources": "[]"},
        {"io.kubernetes.cri-o.PodLinuxResources": '{"cpu_quota":"1"}'},
    ],
)
def test_an_annotation_that_is_no_limit_is_refused_by_its_name(annotations: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        _size_pod(annotations)
    caught.match(next(iter(annotations)))


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (HypervisorConfig(overhead_vcpus=0.5), VmSize(8, 700 + GUEST_OVERHEAD_MIB)),
        (HypervisorConfig(overhead_memory=300), VmSize(7, 1000)),
        (HypervisorConfig(overhead_memory=32), VmSize(7, 700 + GUEST_OVERHEAD_MIB)),
        (HypervisorConfig(default_maxvcpus=2), VmSize(2, 700 + GUEST_OVERHEAD_MIB)),
    ],
)
def test_the_operators_overheads_and_bounds_count(config: HypervisorConfig, size: VmSize) -> None:
    assert _size_pod({}, config) == size


def test_without_limits_the_defaults_have_upstreams_special_numbers() -> None:
    assert size_vm({}, HypervisorConfig(default_vcpus=-1, default_memory=0), _HOST) == VmSize(_HOST.cpus, 2048)
    assert size_vm({}, HypervisorConfig(default_vcpus=0), _HOST).vcpus == 1


def test_a_pod_that_wants_more_memory_than_it_may_have_is_told_how_much_that_is() -> None:
    with pytest.raises(ConfigError, match=r"700 MiB cannot be had \(default_maxmemory is 600 MiB\)"):
        _size_pod({}, HypervisorConfig(default_memory=512, default_maxmemory=600))
    with pytest.raises(ConfigError, match="the host's memory is 16384 MiB"):
        size_vm({}, HypervisorConfig(default_memory=1 << 20), _HOST)


@given(st.fixed_dictionaries({}, optional={"quota": _JSON, "period": _JSON, "limit": _JSON}))
def test_any_limits_give_a_vm_that_can_be_or_a_sentence(limits: dict[str, Any]) -> None:
    try:
        size = _size(**limits)
    except UsageError:
        return
    assert 1 <= size.vcpus <= _HOST.cpus
    assert LEAST_MEMORY_MIB <= size.memory_mib <= _HOST.memory_mib + GUEST_OVERHEAD_MIB + 2


@given(st.sampled_from(["linux", "resources", "cpu", "memory"]), _JSON)
def test_a_limit_in_a_place_that_is_no_object_is_a_sentence(place: str, value: Any) -> None:
    spec: dict[str, Any] = {"linux": {"resources": {"cpu": {}, "memory": {}}}}
    owner = {"linux": spec, "resources": spec["linux"]}.get(place, spec["linux"]["resources"])
    owner[place] = value
    try:
        assert size_vm(spec, _CONFIG, _HOST) == VmSize(3, 1000)
    except UsageError as error:
        assert place in error.message  # noqa: PT017 - either outcome is right


def test_this_machine_has_a_size() -> None:
    host = measure_host()
    assert host.cpus > 0
    assert host.memory_mib > 0


_ROOM = leave_room(VmSize(1, 512), HypervisorConfig(default_maxmemory=4096), _HOST)
_GIB = 1 << 30


def test_a_vm_can_grow_to_what_the_operator_and_the_host_have() -> None:
    assert VmSize(1, 512, 8, 4096) == _ROOM
    assert leave_room(VmSize(1, 512), HypervisorConfig(default_maxvcpus=2), _HOST) == VmSize(1, 512, 2, 16384)
    assert leave_room(VmSize(1, 700), HypervisorConfig(default_maxmemory=600), _HOST).most_memory_mib == 700


@pytest.mark.parametrize(
    ("containers", "vcpus", "memory"),
    [
        ([], 1, 512),
        ([Limits(0.5, 100 << 20)], 1, 512),
        ([Limits(0.5, _GIB), Limits(0.6, _GIB)], 2, 2048 + GUEST_OVERHEAD_MIB),
        ([Limits(2.0, 0), Limits(0, _GIB)], 5, 1024 + 1000),
        ([Limits(0, 0), Limits(0, 0)], 3, 1000),
        ([Limits(20.0, _GIB)], 8, 1024 + GUEST_OVERHEAD_MIB),
        ([Limits(1.0, 1 << 62)], 1, 1000),
        ([Limits(1.0, _GIB, 3 << 20), Limits(1.0, _GIB, 4 << 20)], 2, 2048 + 8 + GUEST_OVERHEAD_MIB),
    ],
)
def test_a_vm_that_can_grow_is_as_big_as_its_containers_together(
    containers: list[Limits], vcpus: int, memory: int
) -> None:
    assert fit_containers(containers, _ROOM, _CONFIG, _HOST) == _ROOM._replace(vcpus=vcpus, memory_mib=memory)


def test_containers_that_need_more_memory_than_there_can_be_are_told_how_much_that_is() -> None:
    with pytest.raises(ConfigError, match=r"need a VM of 4192 MiB \(the most that this one can have is 4096 MiB\)"):
        fit_containers([Limits(1.0, 4 * _GIB)], _ROOM, _CONFIG, _HOST)


def test_huge_pages_come_on_top_of_the_memory_that_a_vm_has_otherwise() -> None:
    def measure(**resources: object) -> int:
        return size_vm({"linux": {"resources": resources}}, HypervisorConfig(), _HOST).memory_mib

    huge = [{"pageSize": "2MB", "limit": 64 << 20}, {"pageSize": "1GB", "limit": 0}]
    assert measure(hugepageLimits=huge) == measure() + 64
    limit = {"limit": 256 << 20}
    assert measure(memory=limit, hugepageLimits=huge) == measure(memory=limit) + 64
    with pytest.raises(ConfigError, match="cannot be had"):
        measure(hugepageLimits=[{"pageSize": "2MB", "limit": 1 << 50}])
    for wrong in ({"2MB": 1}, ["2MB"], [{"limit": "1"}], [{"limit": -1}]):
        with pytest.raises(UsageError, match="hugepageLimits"):
            measure(hugepageLimits=wrong)
    crio = {"io.kubernetes.cri-o.PodLinuxResources": json.dumps({"hugepage_limits": [{"limit": 64 << 20}]})}
    assert size_vm({"annotations": crio}, HypervisorConfig(), _HOST).memory_mib == measure() + 64


def test_a_vm_that_does_not_grow_says_how_big_it_has_to_be_for_huge_pages() -> None:
    check_huge_pages("c", Limits(huge=64 << 20), 192)
    with pytest.raises(UsageError, match=r"container c cannot have 64 MiB .* of 190 MiB \(.* at least 192 MiB"):
        check_huge_pages("c", Limits(huge=64 << 20), 190)
    check_huge_pages("c", Limits(), 128)


def test_an_update_changes_the_limits_that_it_names_only() -> None:
    before = {"cpu": {"quota": 200_000, "period": 50_000, "shares": 2}, "memory": {"limit": _GIB}, "pids": {"limit": 3}}
    assert read_limits(merge_resources(before, {"cpu": {"quota": 100_000, "period": None}})) == Limits(2.0, _GIB)
    assert read_limits(merge_resources(before, {"memory": {"limit": -1}})) == Limits(4.0, 0)
    assert read_limits(merge_resources({}, {})) == Limits()
    assert read_limits(merge_resources({"hugepageLimits": [{"limit": 5}]}, {"memory": {"limit": 1}})).huge == 5
