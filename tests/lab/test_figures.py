"""What a start and an idle container cost, with one driver beside the other: figures for docs/hypervisors.md.

They are the lab's. A virtual machine in an emulated one tells nothing of any host but which costs more.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import HYPERVISOR, Container, Engine, begin_table
from kata.sandbox.ledger import Kind, list_resources
from lab.job import find_vmm

_FLAVOURS = ("qemu", "microvm", "clh", "clh-dax", "firecracker", "qemu-clone", "clh-clone", "clh-clone-dax")
"""A driver, whether its VMs are copies, and whether their images are memory."""

_PROGRAMS = {"clh": "cloud-hypervisor", "firecracker": "firecracker"}
_PSS = re.compile(r"^Pss: +(\d+) kB$", re.MULTILINE)
_NAME = re.compile(r"^Name:\t(.+)$", re.MULTILINE)


def _measure(held: Container) -> dict[str, float]:
    """Return the proportional set size of each process of a sandbox on the host, in MB (proc(5), smaps_rollup)."""
    noted = list_resources(str(held.engine.find_sandbox(held.sandbox)))
    pids = [int(value.split()[0]) for kind, value in noted if kind is Kind.PROCESS]
    pids += [held.engine.find_process("serve", held.sandbox), held.pid]
    for pid in list(pids):
        pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    found: dict[str, float] = {}
    for pid in set(pids):
        name = _NAME.search(Path(f"/proc/{pid}/status").read_text())
        size = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
        if name is not None and size is not None:
            found[name[1]] = round(found.get(name[1], 0.0) + int(size[1]) * 1024 / 1e6, 1)
    return found


@pytest.mark.timeout(400)
@pytest.mark.skipif(not os.environ.get("KATA_LAB"), reason="NOT THE LAB: bench/run.py measures this machine")
@pytest.mark.parametrize("flavour", _FLAVOURS)
def test_a_container_starts_and_idles(
    engine: Engine, flavour: str, record_property: Callable[[str, object], None]
) -> None:
    driver, *words = flavour.split("-")
    clone, more = "clone" in words, "disable_image_nvdimm = false\n" if "dax" in words else ""
    if driver in _PROGRAMS and find_vmm(_PROGRAMS[driver]) is None:
        pytest.skip(f"NO {_PROGRAMS[driver]}: its figures are missing")
    engine.use_templates(more) if clone else engine.configure(more)
    try:
        text = engine.config.read_text().replace(begin_table(HYPERVISOR), begin_table(driver))
        engine.config.write_text(text)
        if clone:
            engine.succeed("factory", "init")
        starts = [engine.run_container("echo", "word") for _ in range(3)]
        assert [start for start in starts if start.text != "word\n"] == []
        with engine.hold("sleep", "1000", name="idle") as held:
            held.ask("true")
            assert ("guest restore" in engine.succeed("timeline", held.id)) == clone
            sizes = _measure(held)
        record_property("start", f"{sorted(start.seconds for start in starts)[1]:.1f} s")
        record_property("pss", f"{sum(sizes.values()):.0f} MB: {sizes}")
    finally:
        if clone:
            engine.succeed("factory", "destroy")
        engine.configure("")
