"""The guest's statistics in both of containerd's forms."""

from kata.protocol.messages import agent
from kata.shim.stats import make_metrics_v1, make_metrics_v2

_STATS = agent.CgroupStats(
    cpu_stats=agent.CpuStats(
        cpu_usage=agent.CpuUsage(total_usage=5_000_000, usage_in_usermode=3_000_000, usage_in_kernelmode=2_000_000),
        throttling_data=agent.ThrottlingData(periods=4, throttled_periods=2, throttled_time=9000),
    ),
    memory_stats=agent.MemoryStats(
        cache=11, usage=agent.MemoryData(usage=12, limit=13, max_usage=14), stats={"anon": 15, "inactive_file": 16}
    ),
    pids_stats=agent.PidsStats(current=17, limit=18),
)


def test_user_time_is_user_time_and_kernel_time_is_kernel_time_in_both_forms() -> None:
    one, two = make_metrics_v1(_STATS).cpu, make_metrics_v2(_STATS).cpu

    assert one is not None
    assert one.usage is not None
    assert (one.usage.total, one.usage.user, one.usage.kernel) == (5_000_000, 3_000_000, 2_000_000)
    assert two is not None
    assert (two.usage_usec, two.user_usec, two.system_usec) == (5000, 3000, 2000)
    assert (two.nr_periods, two.nr_throttled, two.throttled_usec) == (4, 2, 9)


def test_memory_and_pids_are_in_both_forms() -> None:
    one, two = make_metrics_v1(_STATS), make_metrics_v2(_STATS)

    assert one.memory is not None
    assert one.memory.usage is not None
    assert (one.memory.usage.usage, one.memory.usage.limit, one.memory.rss) == (12, 13, 15)
    assert one.memory.total_inactive_file == 16
    assert two.memory is not None
    assert (two.memory.usage, two.memory.usage_limit, two.memory.max_usage) == (12, 13, 14)
    assert (two.memory.anon, two.memory.inactive_file) == (15, 16)
    assert one.pids == two.pids


def test_an_empty_answer_is_no_error() -> None:
    assert make_metrics_v1(agent.CgroupStats()).encode() is not None
    assert make_metrics_v2(agent.CgroupStats()).encode() is not None
