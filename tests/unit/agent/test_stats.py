"""cgroup files and /proc files, as the kernel writes them, to the protocol's figures."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kata.agent.cgroup import Cgroup
from kata.agent.hotplug import count_set
from kata.agent.metrics import name_memory_item, parse_cpu_times, parse_disks, render_metrics
from kata.agent.stats import parse_flat, parse_io, parse_network, read_stats
from kata.protocol.exposition import parse_families
from kata.protocol.messages.agent import CpuUsage, MemoryData, PidsStats, ThrottlingData

FILES = {
    "cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 7\nnr_throttled 1\nthrottled_usec 9\n",
    "memory.current": "4096\n",
    "memory.max": "max\n",
    "memory.peak": "8192\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n",
    "memory.stat": "anon 1024\nfile 2048\nkernel 512\n",
    "memory.swap.current": "0\n",
    "memory.swap.max": "1048576\n",
    "pids.current": "4\n",
    "pids.max": "max\n",
    "io.stat": "254:16 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
}


def make_cgroup(root: Path) -> Cgroup:
    (root / "c").mkdir()
    for name, text in FILES.items():
        (root / "c" / name).write_text(text)
    return Cgroup("/c", str(root))


def test_time_is_in_nanoseconds(tmp_path: Path) -> None:
    cpu = read_stats(make_cgroup(tmp_path)).cpu_stats

    assert cpu is not None
    assert cpu.cpu_usage == CpuUsage(total_usage=5000, usage_in_usermode=3000, usage_in_kernelmode=2000)
    assert cpu.throttling_data == ThrottlingData(periods=7, throttled_periods=1, throttled_time=9000)


def test_memory_is_in_bytes_and_no_limit_is_the_largest_number(tmp_path: Path) -> None:
    memory = read_stats(make_cgroup(tmp_path)).memory_stats

    assert memory is not None
    assert memory.usage == MemoryData(usage=4096, max_usage=8192, failcnt=3, limit=2**64 - 1)
    assert memory.swap_usage == MemoryData(limit=1 << 20)
    assert memory.cache == 2048
    assert (memory.stats["anon"], memory.stats["max"], memory.stats["oom_kill"]) == (1024, 3, 2)


def test_processes_without_limit_have_limit_zero(tmp_path: Path) -> None:
    assert read_stats(make_cgroup(tmp_path)).pids_stats == PidsStats(current=4, limit=0)


def test_kills_for_want_of_memory_are_counted(tmp_path: Path) -> None:
    assert make_cgroup(tmp_path).read_oom_kills() == 2


def test_a_cgroup_that_is_gone_has_nothing_to_report(tmp_path: Path) -> None:
    stats = read_stats(Cgroup("/gone", str(tmp_path)))

    assert stats.memory_stats is None
    assert stats.pids_stats is None


def test_input_and_output_are_told_by_device_and_direction() -> None:
    entries = parse_io(FILES["io.stat"]).io_service_bytes_recursive

    assert [(entry.major, entry.minor, entry.op, entry.value) for entry in entries] == [
        (254, 16, "read", 10),
        (254, 16, "write", 20),
        (254, 16, "discard", 0),
    ]


def test_the_network_is_reported_without_loopback() -> None:
    text = "Inter-|\n face |\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n"
    [eth0] = parse_network(text)

    assert (eth0.name, eth0.rx_bytes, eth0.rx_dropped, eth0.tx_bytes, eth0.tx_dropped) == ("eth0", 10, 4, 50, 8)


@given(values=st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), st.integers(0, 2**64)))
def test_flat_files_are_read_back(values: dict[str, int]) -> None:
    assert parse_flat("".join(f"{name} {value}\n" for name, value in values.items())) == values


@given(numbers=st.sets(st.integers(0, 200), min_size=1))
def test_lists_of_cpus_are_counted(numbers: set[int]) -> None:
    assert count_set(",".join(str(number) for number in sorted(numbers))) == len(numbers)
    assert count_set(f"{min(numbers)}-{max(numbers)}\n") == max(numbers) - min(numbers) + 1


def test_names_of_proc_become_those_of_prometheus() -> None:
    names = ["MemTotal", "Active(anon)", "HugePages_Total", "DirectMap2M", "SReclaimable", "Committed_AS", "Percpu"]

    assert [name_memory_item(name) for name in names] == [
        *("mem_total", "active_anon", "hugepages_total", "direct_map_2M", "s_reclaimable", "committed_as", "per_cpu")
    ]


def test_cpu_times_are_in_milliseconds_and_disks_in_their_own_units() -> None:
    times = {labels["cpu"] + labels["item"]: value for labels, value in parse_cpu_times("cpu  100 0\ncpu0 100 0\n")}
    disks = parse_disks(" 254 0 vda 5 1 2 3 4 5 6 7 8 9 10\n")

    assert times["totaluser"] == times["0user"] == 1000
    assert disks[0] == ({"disk": "vda", "item": "reads"}, 5)


def test_a_scrape_of_this_machine_is_prometheus_text() -> None:
    families = {family.name: family for family in parse_families(render_metrics())}

    assert {"kata_agent_total_rss", "kata_agent_threads", "kata_guest_meminfo", "kata_guest_load"} <= families.keys()
    assert families["kata_agent_scrape_count"].kind == "counter"
    assert families["kata_agent_process_start_time_seconds"].samples[0].value > 1e9
    items = {sample.labels["item"] for sample in families["kata_agent_proc_status"].samples}
    assert {"vmrss", "rssanon", "voluntary_ctxt_switches"} <= items
