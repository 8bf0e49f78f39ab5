"""docs/reference/metrics.md and what is really served name the same metrics."""

import re
from pathlib import Path

import pytest

from kata.agent.metrics import render_metrics
from kata.monitor.calls import MonitorCalls
from kata.observe.log import Log
from kata.protocol.exposition import Family, parse_families
from kata.protocol.http import Request
from kata.protocol.messages import agent as wire
from kata.sandbox.sandbox import Sandbox
from peer import Peer
from unit.sandbox.made_vm import peer, vm
from unit.sandbox.test_management import sandbox, scrape, serve

__all__ = ["peer", "sandbox", "vm"]

_PAGE = Path(__file__).parents[3] / "docs/reference/metrics.md"
_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*)\| [^|]+ \|$", re.MULTILINE)
_NOT_EVERYWHERE = {"kata_guest_diskstat", "kata_guest_filesystem_bytes", "kata_guest_filesystem_inodes"}
"""What a machine in a container may have nothing to tell of: here the test's own stands for the guest."""


def describe(family: Family) -> tuple[str, str]:
    """Return type and labels as the page has them; the bounds of a histogram go without saying."""
    return family.kind, ", ".join(sorted({name for sample in family.samples for name in sample.labels} - {"le"}))


async def test_the_page_has_every_metric_with_its_type_and_labels_and_no_other(
    sandbox: Sandbox, peer: Peer, tmp_path: Path
) -> None:
    page = {name: (kind, labels.strip()) for name, kind, labels in _ROW.findall(_PAGE.read_text())}
    serve(peer, "GetMetrics", wire.GetMetricsRequest, wire.Metrics(metrics=render_metrics()))
    sandbox.durations.note("Create", 0.1)
    monitor = MonitorCalls(str(tmp_path / "nothing"), Log("", "test"))
    request = Request("GET", "/metrics")
    await monitor.serve(request)  # a histogram of scrapes has a sample from the second on

    families = (await scrape(sandbox)) | {
        family.name: family for family in parse_families((await monitor.serve(request)).body.decode())
    }

    served = {name: describe(family) for name, family in families.items()}
    assert served == {name: row for name, row in page.items() if name in served or name not in _NOT_EVERYWHERE}


@pytest.mark.parametrize("line", ["| `kata_x` | gauge | | text |", "| `kata_x` | gauge | cpu, item | text |"])
def test_rows_of_the_page_are_read(line: str) -> None:
    assert _ROW.findall(line)
