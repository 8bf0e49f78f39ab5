"""The metrics of one process, from what /proc says of it; names and labels are upstream's."""

from collections.abc import Mapping

from kata.protocol.exposition import Family, Row, make_family, make_gauge, make_items
from kata.sys.procfs import Process, select_times


def list_standard_families(prefix: str, process: Process) -> list[Family]:
    """Return the `process_*` metrics that every client library of Prometheus has.

    Source: https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics
    """
    stat = process.stat
    seconds = (stat["utime"] + stat["stime"]) / process.ticks
    name = f"{prefix}_process"
    return [
        make_family(
            f"{name}_cpu_seconds_total", "Total user and system CPU time spent in seconds.", [({}, seconds)], "counter"
        ),
        make_gauge(f"{name}_max_fds", "Maximum number of open file descriptors.", process.most_descriptors),
        make_gauge(f"{name}_open_fds", "Number of open file descriptors.", process.descriptors),
        make_gauge(f"{name}_resident_memory_bytes", "Resident memory size in bytes.", stat["rss"]),
        make_gauge(
            f"{name}_start_time_seconds", "Start time of the process since unix epoch in seconds.", process.started_at
        ),
        make_gauge(f"{name}_virtual_memory_bytes", "Virtual memory size in bytes.", stat["vsize"]),
    ]


def list_component_families(prefix: str, title: str, process: Process) -> list[Family]:
    """Return the metrics that each host process of a sandbox has; those of interfaces only where they were read."""
    # The host's items of I/O have no underscores, unlike the guest's.
    io = {item.replace("_", ""): value for item, value in process.io.items()}
    families = [
        make_gauge(f"{prefix}_threads", f"{title} process threads.", process.stat["num_threads"]),
        make_items(f"{prefix}_proc_status", f"{title} process status.", process.status),
        make_items(f"{prefix}_proc_stat", f"{title} process statistics.", select_times(process.stat)),
        make_items(f"{prefix}_io_stat", f"{title} process IO statistics.", io),
        make_gauge(f"{prefix}_fds", f"{title} open FDs.", process.descriptors),
    ]
    if process.network:
        rows = list_network_rows(process.network)
        families.append(make_family(f"{prefix}_netdev", f"{title} network devices statistics.", rows))
    return families


def list_network_rows(network: Mapping[str, Mapping[str, int]]) -> list[Row]:
    """Return a sample for each figure of each interface."""
    return [
        ({"interface": interface, "item": item}, value)
        for interface, figures in network.items()
        for item, value in figures.items()
    ]
