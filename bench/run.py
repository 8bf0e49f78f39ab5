"""Measure starts, execs, memory, throughput, network and files beside bare QEMU and runc; write build/bench.json.

Run as root, on a quiet machine: `/usr/bin/python3 bench/run.py`; `--help` tells how often.
Runs are interleaved, so that a machine that slows down slows all alike.
"""

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

_PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_PROJECT), str(_PROJECT / "src")]

from bench.bundle import make_bundle  # noqa: E402 - found by the line above
from bench.engine import read_shim, start_engine, time_exec  # noqa: E402 - the same
from bench.files import attach_disk, build_program, time_disk, time_share  # noqa: E402 - the same
from bench.link import make_namespace, time_link  # noqa: E402 - the same
from bench.memory import measure_agent, read_pss  # noqa: E402 - the same
from bench.plot import draw_distributions  # noqa: E402 - the same
from bench.report import build_report, describe_machine, format_table, write_report  # noqa: E402 - the same
from bench.runtime import (  # noqa: E402 - the same
    Runtime,
    find_runtimes,
    time_command_input,
    time_command_output,
    time_input,
    time_output,
)
from bench.shim import time_shim  # noqa: E402 - the same
from bench.starts import measure_crowds, measure_starts  # noqa: E402 - the same

_PAGES = 1000
_FILES = 1000
_LINK_SHARE = 16
"""A transfer over the network is this much smaller, or an emulated guest would take ten minutes for each."""


def main() -> int:
    options = _parse_options()
    with tempfile.TemporaryDirectory(prefix="kata-bench-", dir="/run") as name:
        directory = Path(name)
        kata, runc = find_runtimes(directory)
        samples: dict[str, list[float]] = defaultdict(list)
        setup, absent = measure_starts(directory, kata, runc, options.runs, samples)
        memory = measure_crowds(directory, kata, setup, options.crowds, samples)
        memory["agent_in_guest"] = measure_agent(directory)
        kata.call("factory", "init")
        _measure_transfers(directory, (kata, runc), options, samples)
        _measure_links(directory, (kata, runc), options, samples)
        _measure_files(directory, (kata, runc), options, samples)
        sleeper = make_bundle(directory / "sleeper", ("sleep", "1000"))
        memory["shim_pss"] = _measure_engine(directory, sleeper / "rootfs", options, samples)
        report = build_report(samples, memory, describe_machine(), absent)
    write_report(report, options.output)
    crowds = {f"{size} at once": samples[f"clone_of_{size}"] for size in options.crowds}
    options.plot.write_text(draw_distributions(crowds))
    print(format_table(report))
    return 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure cold start, memory and throughput.")
    parser.add_argument("--runs", type=int, default=7, help="starts of each kind")
    parser.add_argument("--crowds", type=int, nargs="+", default=[1, 10, 30], help="how many clones start at once")
    parser.add_argument("--plot", type=Path, default=_PROJECT / "build/starts.svg", help="where the picture goes")
    parser.add_argument("--transfers", type=int, default=3, help="transfers of each kind and direction; 0: none")
    parser.add_argument("--execs", type=int, default=20, help="processes executed by ctr in a container of each kind")
    parser.add_argument("--mib", type=int, default=1024, help="size of a transfer; figures are scaled to 1 GiB")
    parser.add_argument("--output", type=Path, default=_PROJECT / "build/bench.json")
    return parser.parse_args()


def _measure_transfers(
    directory: Path, runtimes: tuple[Runtime, Runtime], options: argparse.Namespace, samples: dict[str, list[float]]
) -> None:
    size, scale = options.mib << 20, 1024 / options.mib
    writer = make_bundle(directory / "writer", ("dd", "if=/dev/zero", "bs=1M", f"count={options.mib}", "status=none"))
    reader = make_bundle(directory / "reader", ("sh", "-c", "echo ready; wc -c"))
    for number in range(options.transfers):
        print(f"transfers: {number + 1} of {options.transfers}", file=sys.stderr, flush=True)
        for runtime in runtimes:
            prefix = "" if runtime.name == "kata" else f"{runtime.name}_"
            samples[f"{prefix}stdout_1gib"].append(time_output(runtime, writer, size) * scale)
            samples[f"{prefix}stdin_1gib"].append(time_input(runtime, reader, size) * scale)


def _measure_links(
    directory: Path, runtimes: tuple[Runtime, Runtime], options: argparse.Namespace, samples: dict[str, list[float]]
) -> None:
    mib = max(options.mib // _LINK_SHARE, 1)
    with make_namespace(f"bench{os.getpid()}") as network:
        sleeper = make_bundle(directory / "linked", ("sleep", "1000"), network=network)
        for number in range(options.transfers):
            print(f"network: {number + 1} of {options.transfers}", file=sys.stderr, flush=True)
            for runtime in runtimes:
                prefix = "" if runtime.name == "kata" else f"{runtime.name}_"
                times = time_link(runtime, sleeper, mib << 20, options.execs)
                samples[f"{prefix}veth_1gib"].append(times.transfer * 1024 / mib)
                samples[f"{prefix}veth_1000_exchanges"].append(times.exchange * 1000)


def _measure_files(
    directory: Path, runtimes: tuple[Runtime, Runtime], options: argparse.Namespace, samples: dict[str, list[float]]
) -> None:
    """Measure a directory and a block device of the host. Both are on the disk that has /var/tmp."""
    scales = {"write": ("write_1gib", 1024 / options.mib), "read": ("read_1gib", 1024 / options.mib)}
    scales |= {name: (f"1000_{name}", 1.0) for name in ("random", "create", "stat", "unlink")}
    program = build_program(directory)
    with (
        tempfile.TemporaryDirectory(prefix="kata-bench-", dir="/var/tmp") as name,
        attach_disk(Path(name) / "disk", options.mib) as disk,
    ):
        for number in range(options.transfers):
            print(f"files: {number + 1} of {options.transfers}", file=sys.stderr, flush=True)
            for runtime in runtimes:
                prefix = "" if runtime.name == "kata" else f"{runtime.name}_"
                place = Path(name) / f"{runtime.name}-{number}"
                for kind, seconds in (
                    ("share", time_share(runtime, place, program, options.mib, _PAGES, _FILES)),
                    ("block", time_disk(runtime, place / "disk", program, disk, options.mib, _PAGES)),
                ):
                    for work, (title, scale) in scales.items():
                        if work in seconds:
                            samples[f"{prefix}{kind}_{title}"].append(seconds[work] * scale)


def _measure_engine(
    directory: Path, rootfs: Path, options: argparse.Namespace, samples: dict[str, list[float]]
) -> float:
    """Measure both runtimes by containerd and ctr, and the shim alone; return the MB of a pod's shim."""
    size, scale = options.mib << 20, 1024 / options.mib
    for number in range(options.runs):
        start, ready = time_shim(directory / f"shim-{number}", f"bench-{os.getpid()}-{number}")
        samples["shim_start_cpu"].append(start)
        samples["shim_ready_cpu"].append(ready)
    with (
        start_engine(directory / "containerd") as engine,
        engine.hold("kata", rootfs) as kata,
        engine.hold("runc", rootfs) as runc,
    ):
        containers = {"": kata, "runc_": runc}
        for number in range(options.execs):
            print(f"execs: {number + 1} of {options.execs}", file=sys.stderr, flush=True)
            for prefix, container in containers.items():
                samples[f"{prefix}ctr_exec"].append(time_exec(engine, container))
        memory = read_pss(read_shim(engine, kata))
        for number in range(options.transfers):
            print(f"transfers by ctr: {number + 1} of {options.transfers}", file=sys.stderr, flush=True)
            for prefix, container in containers.items():
                write = ("dd", "if=/dev/zero", "bs=1M", f"count={options.mib}", "status=none")
                out = time_command_output(engine.build_exec(container, *write), size)
                samples[f"{prefix}ctr_stdout_1gib"].append(out * scale)
                into = time_command_input(engine.build_exec(container, "sh", "-c", "echo ready; wc -c"), size)
                samples[f"{prefix}ctr_stdin_1gib"].append(into * scale)
    return memory


if __name__ == "__main__":
    raise SystemExit(main())
