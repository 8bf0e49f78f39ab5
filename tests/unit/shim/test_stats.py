"""The guest's statistics in both of containerd's forms."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.protocol.messages import agent, metrics
from kata.protocol.protobuf import Message
from kata.shim.stats import add_numbers, make_metrics_v1, make_metrics_v2

_NUMBER = st.integers(0, 2**40)
_UNLIMITED = (1 << 64) - 1

_ENTRY = "limit=1 usage=2 max=3 failcnt=4"
_NETWORK = "name=1 rx_bytes=2 rx_packets=3 rx_errors=4 rx_dropped=5 tx_bytes=6 tx_packets=7 tx_errors=8 tx_dropped=9"
_PUBLISHED = {
    metrics.MetricsV1: "hugetlb=1 pids=2 cpu=3 memory=4 blkio=5 network=7 memory_oom_control=9",
    metrics.HugetlbStatV1: "usage=1 max=2 failcnt=3 pagesize=4",
    metrics.PidsStat: "current=1 limit=2",
    metrics.CpuStatV1: "usage=1 throttling=2",
    metrics.CpuUsageV1: "total=1 kernel=2 user=3 per_cpu=4",
    metrics.ThrottleV1: "periods=1 throttled_periods=2 throttled_time=3",
    metrics.MemoryEntryV1: _ENTRY,
    metrics.BlkioEntryV1: "op=1 device=2 major=3 minor=4 value=5",
    metrics.BlkioStatV1: "io_service_bytes_recursive=1 io_serviced_recursive=2",
    metrics.NetworkStat: _NETWORK,
    metrics.MetricsV2: "pids=1 cpu=2 memory=4 io=6 hugetlb=7 memory_events=8 network=9",
    metrics.MemoryEventsV2: "low=1 high=2 max=3 oom=4 oom_kill=5 oom_group_kill=6",
    metrics.CpuStatV2: "usage_usec=1 user_usec=2 system_usec=3 nr_periods=4 nr_throttled=5 throttled_usec=6",
    metrics.IoStatV2: "usage=1",
    metrics.IoEntryV2: "major=1 minor=2 rbytes=3 wbytes=4 rios=5 wios=6",
    metrics.HugetlbStatV2: "current=1 max=2 pagesize=3 failcnt=4",
}
_MEMORY_V1 = (
    "cache rss rss_huge mapped_file dirty writeback pg_pg_in pg_pg_out pg_fault pg_maj_fault inactive_anon active_anon"
    " inactive_file active_file unevictable"
)
_MEMORY_V1_ORDER = [
    *_MEMORY_V1.split(),
    "hierarchical_memory_limit",
    "hierarchical_swap_limit",
    *(f"total_{name}" for name in _MEMORY_V1.split()),
    *("usage", "swap", "kernel", "kernel_tcp"),
]
_MEMORY_V2_ORDER = (
    "anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp inactive_anon active_anon"
    " inactive_file active_file unevictable slab_reclaimable slab_unreclaimable pgfault pgmajfault workingset_refault"
    " workingset_activate workingset_nodereclaim pgrefill pgscan pgsteal pgactivate pgdeactivate pglazyfree"
    " pglazyfreed thp_fault_alloc thp_collapse_alloc usage usage_limit swap_usage swap_limit max_usage swap_max_usage"
)


def _numbers(cls: type[Message]) -> dict[str, int]:
    return {field.name: field.number for field in cls.FIELDS.values()}


@pytest.mark.parametrize("cls", _PUBLISHED, ids=lambda cls: cls.__name__)
def test_fields_have_the_numbers_of_the_published_messages(cls: type[Message]) -> None:
    published = (pair.partition("=") for pair in _PUBLISHED[cls].split())

    assert _numbers(cls) == {name: int(number) for name, _, number in published}


@pytest.mark.parametrize(
    ("cls", "order"), [(metrics.MemoryStatV1, _MEMORY_V1_ORDER), (metrics.MemoryStatV2, _MEMORY_V2_ORDER.split())]
)
def test_fields_of_memory_are_numbered_in_the_published_order(cls: type[Message], order: list[str]) -> None:
    published = {name: number for number, name in enumerate(order, start=1)}

    assert _numbers(cls).items() <= published.items()


def _data() -> st.SearchStrategy[agent.MemoryData]:
    return st.builds(agent.MemoryData, usage=_NUMBER, max_usage=_NUMBER, failcnt=_NUMBER, limit=_NUMBER)


def _entries() -> st.SearchStrategy[list[agent.BlkioStatsEntry]]:
    """One number per device and operation, as the guest has it."""
    places = st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from(["read", "write", "discard"]))
    return st.dictionaries(places, _NUMBER, max_size=6).map(
        lambda found: [
            agent.BlkioStatsEntry(major=major, minor=minor, op=op, value=value)
            for (major, minor, op), value in found.items()
        ]
    )


_RESPONSES = st.builds(
    agent.StatsContainerResponse,
    cgroup_stats=st.builds(
        agent.CgroupStats,
        cpu_stats=st.builds(
            agent.CpuStats,
            cpu_usage=st.builds(
                agent.CpuUsage, total_usage=_NUMBER, usage_in_usermode=_NUMBER, usage_in_kernelmode=_NUMBER
            ),
            throttling_data=st.builds(
                agent.ThrottlingData, periods=_NUMBER, throttled_periods=_NUMBER, throttled_time=_NUMBER
            ),
        ),
        memory_stats=st.builds(
            agent.MemoryStats,
            cache=_NUMBER,
            usage=_data(),
            swap_usage=_data(),
            stats=st.dictionaries(
                st.sampled_from(["anon", "file", "file_mapped", "inactive_file", "pgfault", "zswap"]), _NUMBER
            ),
        ),
        pids_stats=st.builds(agent.PidsStats, current=_NUMBER, limit=_NUMBER),
        blkio_stats=st.builds(
            agent.BlkioStats, io_service_bytes_recursive=_entries(), io_serviced_recursive=_entries()
        ),
        hugetlb_stats=st.dictionaries(
            st.sampled_from(["2MB", "1GB"]), st.builds(agent.HugetlbStats, usage=_NUMBER, failcnt=_NUMBER)
        ),
    ),
    network_stats=st.lists(
        st.builds(agent.NetworkStats, name=st.text("eth0123", min_size=1), rx_bytes=_NUMBER, tx_dropped=_NUMBER),
        max_size=2,
    ),
)


def _round_trip(message: Any) -> Any:
    return type(message).decode(message.encode())


@given(_RESPONSES)
def test_user_time_is_user_time_and_kernel_time_is_kernel_time_in_both_forms(response: Any) -> None:
    usage = response.cgroup_stats.cpu_stats.cpu_usage
    throttling = response.cgroup_stats.cpu_stats.throttling_data
    one, two = _round_trip(make_metrics_v1(response)).cpu, _round_trip(make_metrics_v2(response)).cpu
    times = (usage.total_usage, usage.usage_in_usermode, usage.usage_in_kernelmode)

    assert (one.usage.total, one.usage.user, one.usage.kernel) == times
    assert (two.usage_usec, two.user_usec, two.system_usec) == tuple(time // 1000 for time in times)
    assert one.throttling.throttled_time == throttling.throttled_time
    assert (two.nr_periods, two.nr_throttled) == (throttling.periods, throttling.throttled_periods)
    assert two.throttled_usec == throttling.throttled_time // 1000


@given(_RESPONSES)
def test_memory_is_in_both_forms_and_v1s_swap_includes_memory(response: Any) -> None:
    memory = response.cgroup_stats.memory_stats
    one, two = _round_trip(make_metrics_v1(response)).memory, _round_trip(make_metrics_v2(response)).memory

    assert (one.rss, one.total_rss, two.anon) == (memory.stats.get("anon", 0),) * 3
    assert (one.cache, two.file) == (memory.stats.get("file", 0),) * 2
    assert (one.total_inactive_file, two.inactive_file) == (memory.stats.get("inactive_file", 0),) * 2
    assert (
        (one.usage.usage, one.usage.limit) == (two.usage, two.usage_limit) == (memory.usage.usage, memory.usage.limit)
    )
    assert two.swap_usage == memory.swap_usage.usage
    assert one.swap.usage == memory.usage.usage + memory.swap_usage.usage
    assert two.max_usage == one.usage.max == memory.usage.max_usage


@given(_RESPONSES)
def test_disks_network_huge_pages_and_pids_are_in_both_forms(response: Any) -> None:
    stats = response.cgroup_stats
    one, two = _round_trip(make_metrics_v1(response)), _round_trip(make_metrics_v2(response))
    read = {(e.major, e.minor): e.value for e in stats.blkio_stats.io_service_bytes_recursive if e.op == "read"}
    shown = {(e.major, e.minor): e.value for e in one.blkio.io_service_bytes_recursive if e.op == "Read"}

    assert shown == read
    assert {place: value for place, value in read.items() if value} == {
        (entry.major, entry.minor): entry.rbytes for entry in two.io.usage if entry.rbytes
    }
    for form in (one, two):
        assert [(card.name, card.rx_bytes, card.tx_dropped) for card in form.network] == [
            (card.name, card.rx_bytes, card.tx_dropped) for card in response.network_stats
        ]
    assert {page.pagesize: page.usage for page in one.hugetlb} == {page.pagesize: page.current for page in two.hugetlb}
    assert one.pids.limit == stats.pids_stats.limit
    assert two.pids.limit == (stats.pids_stats.limit or _UNLIMITED)


def test_what_happened_for_want_of_memory_is_counted_in_both_forms() -> None:
    memory = agent.MemoryStats(stats={"max": 3, "oom": 2, "oom_kill": 1})
    response = agent.StatsContainerResponse(cgroup_stats=agent.CgroupStats(memory_stats=memory))
    one, two = _round_trip(make_metrics_v1(response)), _round_trip(make_metrics_v2(response))

    assert one.memory_oom_control.oom_kill == 1
    assert two.memory_events == metrics.MemoryEventsV2(max=3, oom=2, oom_kill=1)


def test_an_empty_answer_is_no_error() -> None:
    assert make_metrics_v1(agent.StatsContainerResponse()).encode() is not None
    assert make_metrics_v2(agent.StatsContainerResponse()).encode() is not None


def test_the_sum_of_containers_adds_numbers_of_all_depths() -> None:
    def make(total: int, usage: int) -> agent.CgroupStats:
        return agent.CgroupStats(
            cpu_stats=agent.CpuStats(cpu_usage=agent.CpuUsage(total_usage=total)),
            memory_stats=agent.MemoryStats(usage=agent.MemoryData(usage=usage), stats={"anon": usage}),
        )

    total = agent.CgroupStats()
    add_numbers(total, make(1, 10))
    add_numbers(total, make(2, 20))

    assert total == make(3, 30)
