"""One scrape of a sandbox: its processes on the host from /proc, the agent and the guest from the agent."""

import asyncio
import os
from collections.abc import Awaitable, Callable

from kata.errors import KataError
from kata.observe.durations import BOUNDS_MS, Durations
from kata.observe.log import Log
from kata.protocol.exposition import Family, Sample, parse_families
from kata.protocol.process_metrics import list_component_families, list_standard_families
from kata.protocol.text import clean_text
from kata.sandbox.overhead import Overhead, measure_overhead
from kata.sandbox.sandbox import Sandbox
from kata.sandbox.states import Status
from kata.sandbox.vm import SandboxVm
from kata.sys.procfs import find_worker, read_process

GUEST_TIMEOUT = 5.0
"""Seconds. Prometheus gives up after 10 unless told otherwise; a guest that hangs must not cost the host's figures."""

_STARTED = (Status.RUNNING, Status.PAUSED)
_GUEST_PREFIXES = ("kata_agent_", "kata_guest_")
_HOST_LABELS = frozenset({"sandbox_id", "cri_uid", "cri_name", "cri_namespace", "instance", "job"})
"""Labels by which the host tells sandboxes apart: a guest has no say in them."""


async def measure_sandbox(sandbox: Sandbox, overhead: Overhead, log: Log) -> list[Family]:
    """Return all metrics of a sandbox. Without a VM, and with an agent that does not answer, those of the rest.

    `overhead` remembers the scrape before.
    """
    families = []
    shim = read_process("self", network=True)
    if shim is not None:
        families += list_component_families("kata_shim", "Kata containerd shim v2", shim)
        families += list_standard_families("kata_shim", shim)
    families.append(make_histogram("kata_shim_rpc_durations_histogram_milliseconds", sandbox.durations, name_action))
    vm = sandbox.vm
    if vm is None:
        return families
    families.append(make_histogram("kata_shim_agent_rpc_durations_histogram_milliseconds", vm.guest.durations))
    hypervisor = read_process(vm.machine.pid, network=True)
    if hypervisor is not None:
        families += list_component_families("kata_hypervisor", "Hypervisor", hypervisor)
    read = {os.getpid(): shim, vm.machine.pid: hypervisor}
    if vm.virtiofsd is not None:
        worker = find_worker(vm.virtiofsd.pid)
        virtiofsd = read[worker] = read_process(worker)
        if virtiofsd is not None:
            families += list_component_families("kata_virtiofsd", "Virtiofsd", virtiofsd)
    processes = {pid: process for pid, process in read.items() if process is not None}
    started = [name for name, one in sandbox.containers.items() if one.record.status in _STARTED]
    parts = await asyncio.gather(
        _ask_guest("word", _measure_guest(vm), log),
        _ask_guest(
            "part of the overhead", measure_overhead(overhead, vm, processes, started, timeout=GUEST_TIMEOUT), log
        ),
    )
    return [*families, *parts[0], *parts[1]]


async def _ask_guest(what: str, asking: Awaitable[list[Family]], log: Log) -> list[Family]:
    """Wait for what needs the guest. A guest that does not tell costs a scrape these figures only."""
    try:
        return await asking
    except KataError as error:
        log.write("warning", f"the guest's {what} is missing from a scrape", error=str(error))
        return []


async def _measure_guest(vm: SandboxVm) -> list[Family]:
    return select_guest_families(await vm.guest.read_metrics(timeout=GUEST_TIMEOUT))


def select_guest_families(text: str) -> list[Family]:
    """Return what of a guest's text may be shown as the guest's: its own metrics, without the host's labels.

    Raise ProtocolError where it is no such text.
    """
    return [
        Family(family.name, family.kind, clean_text(family.help), [_clean_sample(sample) for sample in family.samples])
        for family in parse_families(text)
        if family.name.startswith(_GUEST_PREFIXES)
    ]


def _clean_sample(sample: Sample) -> Sample:
    labels = {
        name: clean_text(value)
        for name, value in sample.labels.items()
        if name not in _HOST_LABELS and not name.startswith("__")  # such labels are Prometheus' own, like `__name__`
    }
    return sample._replace(labels=labels)


def name_action(method: str) -> str:
    """`CloseIO` to `close_io`: the label that a method of the daemon's own services has."""
    out = ""
    for before, char in zip("A" + method, method, strict=False):
        out += f"_{char}" if char.isupper() and before.islower() else char
    return out.lower()


def make_histogram(name: str, durations: Durations, label: Callable[[str], str] = str) -> Family:
    """Return the cumulative buckets of durations by action, which `label` turns into a label."""
    samples = []
    for call, counts in durations.counts.items():
        action = label(call)
        total = 0
        for bound, count in zip((*BOUNDS_MS, "+Inf"), counts, strict=True):
            total += count
            samples.append(Sample(f"{name}_bucket", {"action": action, "le": str(bound)}, total))
        samples.append(Sample(f"{name}_sum", {"action": action}, durations.sums[call]))
        samples.append(Sample(f"{name}_count", {"action": action}, total))
    return Family(name, "histogram", "RPC latency distributions.", samples)
