"""The figures as a document and as a table."""

import json
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FILE_WORK = (
    *("share_write_1gib", "share_read_1gib", "share_1000_random", "share_1000_create", "share_1000_stat"),
    *("share_1000_unlink", "block_write_1gib", "block_read_1gib", "block_1000_random"),
)
"""What is measured of files and of a block device."""

Samples = Mapping[str, Sequence[float]]


def describe_machine() -> dict[str, str]:
    """Return what the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) >> 20
    return {
        "cpu": f"{cpuinfo.count('processor	')} x {model}",
        "memory": f"{memory} GiB",
        "kernel": platform.release(),
        "qemu": _read_version("qemu-system-x86_64", "--version"),
        "runc": _read_version("runc", "--version"),
        "load": Path("/proc/loadavg").read_text().split()[0],
    }


def _read_version(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def build_report(
    seconds: Samples, memory: Mapping[str, float], machine: Mapping[str, str], absent: Mapping[str, str]
) -> dict[str, Any]:
    """Return the document. Ratios are of medians; what was not measured has no ratio.

    `absent` says of each peer that was not measured why.
    """
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {}
    for name, (over, under) in {
        "clone_over_floor": ("clone", "floor"),
        "clone_over_cold": ("clone", "cold"),
        "cold_over_bare_boot": ("cold", "bare_boot"),
        "cold_over_bare_init": ("cold", "bare_init"),
        "pool_over_clone": ("pool", "clone"),
        "pool_over_floor": ("pool", "floor"),
        **{f"clone_over_{peer}": ("clone", peer) for peer in ("runc", "crun", "runsc", "upstream")},
        **{f"pool_over_{peer}": ("pool", peer) for peer in ("runc", "crun", "runsc", "upstream")},
        "stdout_over_runc": ("stdout_1gib", "runc_stdout_1gib"),
        "stdin_over_runc": ("stdin_1gib", "runc_stdin_1gib"),
        "veth_over_runc": ("veth_1gib", "runc_veth_1gib"),
        "veth_exchange_over_runc": ("veth_1000_exchanges", "runc_veth_1000_exchanges"),
        **{f"{name}_over_runc": (name, f"runc_{name}") for name in FILE_WORK},
        "ctr_exec_over_runc": ("ctr_exec", "runc_ctr_exec"),
        "ctr_stdout_over_runc": ("ctr_stdout_1gib", "runc_ctr_stdout_1gib"),
        "ctr_stdin_over_runc": ("ctr_stdin_1gib", "runc_ctr_stdin_1gib"),
    }.items():
        if over in medians and under in medians:
            ratios[name] = round(medians[over] / medians[under], 2)
    return {
        "seconds": {
            name: {
                "median": round(medians[name], 4),
                "min": round(min(values), 4),
                "max": round(max(values), 4),
                "runs": len(values),
            }
            for name, values in seconds.items()
        },
        "ratios": ratios,
        "memory": {f"{name}_mb": round(value, 1) for name, value in memory.items()},
        "machine": dict(machine),
        "not_measured": dict(absent),
    }


def write_report(report: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")


def format_table(report: Mapping[str, Any]) -> str:
    """Return the figures as tables in Markdown."""
    lines = ["| seconds | median | min | max | runs |", "|---|---|---|---|---|"]
    for name, row in report["seconds"].items():
        lines.append(f"| {name} | {row['median']:.3f} | {row['min']:.3f} | {row['max']:.3f} | {row['runs']} |")
    lines += ["", "| ratio of medians | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in report["ratios"].items()]
    lines += ["", "| memory | MB |", "|---|---|"]
    lines += [f"| {name.removesuffix('_mb')} | {value} |" for name, value in report["memory"].items()]
    if report["not_measured"]:
        lines += ["", "| not measured | why |", "|---|---|"]
        lines += [f"| {name} | {reason} |" for name, reason in report["not_measured"].items()]
    return "\n".join(lines)
