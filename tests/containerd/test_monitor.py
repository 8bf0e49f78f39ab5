"""The metrics of containerd's pods: by the address that the shim leaves in the bundle, and from kata-monitor."""

import asyncio
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from containerd.daemon import Containerd
from guest.test_monitor import MAIN, find_port, running
from kata.protocol.exposition import Family, parse_families
from kata.transport.http import fetch

_TIMEOUT = 60.0
pytestmark = pytest.mark.timeout(400)  # pods are booted one after the other


def _scrape(socket: str) -> dict[str, Family]:
    answer = asyncio.run(fetch(socket, "/metrics", "the pod", timeout=_TIMEOUT))
    assert answer.status == 200, answer
    return {family.name: family for family in parse_families(answer.body.decode())}


def _list_monitored(port: int) -> dict[str, str]:
    """Return the sandboxes that kata-monitor tells of, each with its containerd's namespace."""
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_TIMEOUT) as answer:
                families = {family.name: family for family in parse_families(answer.read().decode())}
            break
        except urllib.error.URLError:  # it does not listen yet
            if time.monotonic() > deadline:
                raise
    threads = families.get("kata_shim_threads")
    rows = [sample.labels for sample in threads.samples] if threads else []
    return {labels["sandbox_id"]: labels.get("containerd_namespace", "") for labels in rows}


def test_a_pods_bundle_tells_where_its_metrics_are(current: Containerd) -> None:
    with current.hold("sleep", "1000000") as name:
        bundle = current.place / "state/io.containerd.runtime.v2.task" / current.token / name
        address = (bundle / "monitor_address").read_text()
        families = _scrape(address.removeprefix("unix://"))

        calls = {row.labels["action"] for row in families["kata_shim_rpc_durations_histogram_milliseconds"].samples}
        assert {"create", "start"} <= calls
        assert families["kata_guest_load"].samples
        assert families["kata_shim_pod_overhead_memory_in_bytes"].samples[0].value > 32 << 20
        assert families["kata_shim_pod_overhead_cpu"].samples[0].value > 0


def test_the_monitor_follows_pods_that_come_and_go(current: Containerd, tmp_path: Path) -> None:
    port = find_port()
    with running([sys.executable, "-IS", "-c", MAIN, f"-listen-address=127.0.0.1:{port}"], tmp_path / "monitor.log"):
        before = set(_list_monitored(port))
        with current.hold("sleep", "1000000") as first:
            with current.hold("sleep", "1000000") as second:
                both = _list_monitored(port)
            one = _list_monitored(port)
        none = _list_monitored(port)

    assert {name: space for name, space in both.items() if name not in before} == dict.fromkeys(
        (first, second), current.token
    )
    assert set(one) - before == {first}
    assert set(none) - before == set()
