"""A container that floods its output, and somebody who reads a KiB a second of it."""

import asyncio
import select
import subprocess

from containerd.daemon import Containerd
from kata.protocol.exposition import parse_families
from kata.transport.http import fetch
from load.footprint import measure_pod

_LINES = 1_000_000
_SECONDS = 10
_KIB = 1024
_GROWTH = 16 * _KIB
"""KiB that shim and agent may hold each: a pipe and a message on their way, and what Python keeps of them."""


def _read_agent_memory(daemon: Containerd, pod: str) -> int:
    """Return the resident memory of the guest's agent, in KiB, by its own word."""
    bundle = daemon.place / "state/io.containerd.runtime.v2.task" / daemon.token / pod
    socket = (bundle / "monitor_address").read_text().removeprefix("unix://")
    answer = asyncio.run(fetch(socket, "/metrics", "the pod", timeout=60))
    families = {family.name: family for family in parse_families(answer.body.decode())}
    return int(families["kata_agent_total_rss"].samples[0].value) // _KIB


def test_a_slow_reader_loses_nothing_and_nothing_grows_meanwhile(current: Containerd) -> None:
    with current.hold("sleep", "1000000") as pod:
        before = measure_pod(current, pod).memory, _read_agent_memory(current, pod)
        words = ("tasks", "exec", "--exec-id", current.name("flood"), pod, "seq", str(_LINES))
        with subprocess.Popen(current.command(*words), stdout=subprocess.PIPE) as reader:
            assert reader.stdout is not None
            said = reader.stdout.read(_KIB)
            for _ in range(_SECONDS):
                select.select([], [], [], 1.0)  # the pace is what is tested
                said += reader.stdout.read(_KIB)
            during = measure_pod(current, pod).memory, _read_agent_memory(current, pod)
            said += reader.stdout.read()
            assert reader.wait(60) == 0

    assert said.splitlines() == [b"%d" % number for number in range(1, _LINES + 1)]
    assert during[0] - before[0] <= _GROWTH, "the shim grew"
    assert during[1] - before[1] <= _GROWTH, "the agent grew"
