"""One scrape of a sandbox: its processes on the host from /proc, the agent and the guest from the agent."""

from collections.abc import Callable

from kata.errors import KataError
from kata.observe.durations import BOUNDS_MS, Durations
from kata.observe.log import Log
from kata.protocol.exposition import Family, Sample, parse_families
from kata.protocol.process_metrics import list_component_families, list_standard_families
from kata.protocol.text import clean_text
from kata.sandbox.sandbox import Sandbox
from kata.sandbox.vm import SandboxVm
from kata.sys.procfs import find_worker, read_process

GUEST_TIMEOUT = 5.0
"""Seconds. Prometheus gives up after 10 unless told otherwise; a guest that hangs must not cost the host's figures."""

_GUEST_PREFIXES = ("kata_agent_", "kata_guest_")
_HOST_LABELS = frozenset({"sandbox_id", "cri_uid", "cri_name", "cri_namespace", "instance", "job"})
"""Labels by which the host tells sandboxes apart: a guest has no say in them."""


async def measure_sandbox(sandbox: Sandbox, log: Log) -> list[Family]:
    """Return all metrics of a sandbox. Without a VM, and with an agent that does not answer, those of the rest."""
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
    virtiofsd = read_process(find_worker(vm.virtiofsd.pid))
    if virtiofsd is not None:
        families += list_component_families("kata_virtiofsd", "Virtiofsd", virtiofsd)
    return families + await _measure_guest(vm, log)


async def _measure_guest(vm: SandboxVm, log: Log) -> list[Family]:
    try:
        return select_guest_families(await vm.guest.read_metrics(timeout=GUEST_TIMEOUT))
    except KataError as error:
        log.write("warning", "the guest's metrics are missing from a scrape", error=str(error))
        return []


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
