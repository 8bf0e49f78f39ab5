"""The management socket of a sandbox over HTTP, with an agent of the test's in the guest's place."""

import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kata.errors import KataError, NotFoundError, UnsupportedError
from kata.observe.log import Log
from kata.protocol.exposition import Family, parse_families
from kata.protocol.http import Response
from kata.protocol.messages import agent as wire
from kata.protocol.messages import csi
from kata.sandbox import metrics, store
from kata.sandbox.attach import AttachServer
from kata.sandbox.bundle import Bundle
from kata.sandbox.container import Container, name_moment
from kata.sandbox.metrics import select_guest_families
from kata.sandbox.overhead import Overhead, Use
from kata.sandbox.sandbox import Sandbox
from kata.sandbox.states import SandboxState, Status
from kata.sandbox.translation import Shared
from kata.sandbox.vm import SandboxVm
from kata.transport.http import fetch
from kata.transport.ttrpc import Method
from peer import Peer
from unit.sandbox.made_vm import peer, vm

__all__ = ["peer", "vm"]

GUEST_TEXT = "# TYPE kata_guest_load gauge\n" + 'kata_guest_load{item="load1"} 0.5\n'


def serve(peer: Peer, method: str, request: type[Any], answer: Any) -> None:
    async def handle(got: Any) -> Any:
        peer.calls.append((method, got))
        if isinstance(answer, KataError):
            raise answer
        return answer

    peer.methods[method] = Method(request, handle)


@pytest.fixture
async def sandbox(tmp_path: Path, vm: SandboxVm) -> AsyncIterator[Sandbox]:
    (tmp_path / "sandboxes/s").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as unused:
        sandbox = Sandbox(str(tmp_path), "s", AttachServer(unused), Log("s", "sandbox"))
        sandbox._vm = vm
        sandbox._state = SandboxState.RUNNING
        sandbox.management.open()
        yield sandbox
        sandbox.management.close()


async def ask(sandbox: Sandbox, target: str, method: str = "GET", body: bytes = b"") -> Response:
    return await fetch(sandbox.management.path, target, "the sandbox", timeout=20, method=method, body=body)


async def scrape(sandbox: Sandbox) -> dict[str, Family]:
    response = await ask(sandbox, "/metrics")
    assert (response.status, response.headers["content-type"][:25]) == (200, "text/plain; version=0.0.4")
    return {family.name: family for family in parse_families(response.body.decode())}


async def test_the_socket_is_for_its_owner_only_and_goes_with_the_sandbox(sandbox: Sandbox) -> None:
    path = Path(sandbox.management.path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (await ask(sandbox, "/agent-url")).body == b"vsock://3:1024"
    sandbox.management.close()
    assert not path.exists()


async def test_a_scrape_has_what_each_process_and_the_guest_say(sandbox: Sandbox, peer: Peer) -> None:
    serve(peer, "GetMetrics", wire.GetMetricsRequest, wire.Metrics(metrics=GUEST_TEXT))
    sandbox.durations.note("CloseIO", 0.001)

    families = await scrape(sandbox)

    assert families["kata_hypervisor_threads"].samples[0].value == 1
    assert families["kata_shim_process_start_time_seconds"].samples[0].value > 1e9
    assert families["kata_guest_load"].samples[0].value == 0.5
    assert families["kata_virtiofsd_proc_status"].samples
    actions = {sample.labels["action"] for sample in families["kata_shim_rpc_durations_histogram_milliseconds"].samples}
    assert actions == {"close_io"}
    asked = families["kata_shim_agent_rpc_durations_histogram_milliseconds"].samples
    assert "grpc.StartContainerRequest" in {sample.labels["action"] for sample in asked}


async def test_the_overhead_is_what_the_host_spends_beyond_the_containers(
    sandbox: Sandbox, peer: Peer, tmp_path: Path
) -> None:
    stats = wire.CgroupStats(
        cpu_stats=wire.CpuStats(cpu_usage=wire.CpuUsage(total_usage=10**9)),
        memory_stats=wire.MemoryStats(usage=wire.MemoryData(usage=64 << 20)),
    )
    serve(peer, "GetMetrics", wire.GetMetricsRequest, wire.Metrics(metrics=GUEST_TEXT))
    alone = (await scrape(sandbox))["kata_shim_pod_overhead_memory_in_bytes"].samples[0].value
    serve(peer, "StatsContainer", wire.StatsContainerRequest, wire.StatsContainerResponse(cgroup_stats=stats))
    add_container(sandbox, tmp_path, "/data", Status.RUNNING)

    families = await scrape(sandbox)

    assert families["kata_shim_pod_overhead_memory_in_bytes"].samples[0].value < alone - (32 << 20)
    assert families["kata_shim_pod_overhead_cpu"].samples[0].value >= 0
    assert peer.calls[-1][1] == wire.StatsContainerRequest(container_id="c")


def test_the_overhead_is_counted_from_one_scrape_to_the_next() -> None:
    overhead = Overhead()

    assert overhead.compare(10.0, Use(5.0, 100.0), {"a": Use(1.0, 30.0)}) == (40.0, 70.0)
    assert overhead.compare(12.0, Use(6.0, 100.0), {"a": Use(1.5, 30.0), "b": Use(0.25, 10.0)}) == (12.5, 60.0)
    assert overhead.compare(14.0, Use(7.0, 100.0), {"b": Use(0.25, 10.0)}) == (50.0, 90.0)
    assert overhead.compare(16.0, Use(7.5, 5.0), {"b": Use(9.0, 10.0)}) == (0.0, 0.0)


async def test_a_guest_that_hangs_does_not_cost_the_hosts_figures(
    sandbox: Sandbox, peer: Peer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics, "GUEST_TIMEOUT", 0.05)

    async def hang(_: object) -> wire.Metrics:
        await peer.stdin_closed.wait()
        return wire.Metrics()

    peer.methods["GetMetrics"] = Method(wire.GetMetricsRequest, hang)

    families = await scrape(sandbox)

    assert "kata_hypervisor_fds" in families
    assert not [name for name in families if name.startswith("kata_guest")]
    assert "did not answer GetMetrics" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["kata_guest_load 1 2 3\n", 'kata_guest_load{a="} 1\n', "\x00"])
async def test_a_guest_that_writes_rubbish_is_left_out(sandbox: Sandbox, peer: Peer, text: str) -> None:
    serve(peer, "GetMetrics", wire.GetMetricsRequest, wire.Metrics(metrics=text))

    families = await scrape(sandbox)

    assert "kata_hypervisor_fds" in families
    assert not [name for name in families if name.startswith("kata_guest")]


def test_a_guest_cannot_speak_for_the_host_or_for_another_guest() -> None:
    text = (
        "kata_hypervisor_fds 1\nkata_shim_threads 7\nup 0\n"
        'kata_guest_load{sandbox_id="other",cri_name="x",__name__="up",item="\x1b[2J"} 1\n'
    )

    [family] = select_guest_families(text)

    assert (family.name, family.samples[0].labels) == ("kata_guest_load", {"item": "?[2J"})


async def test_before_the_vm_runs_only_the_daemon_is_measured(sandbox: Sandbox) -> None:
    sandbox._state = SandboxState.STARTING

    families = await scrape(sandbox)

    assert all(name.startswith("kata_shim_") for name in families)
    assert (await ask(sandbox, "/agent-url")).status == 409


@pytest.mark.parametrize(
    ("method", "target", "call", "request_type"),
    [
        ("GET", "/iptables", "GetIPTables", wire.GetIPTablesRequest),
        ("PUT", "/ip6tables", "SetIPTables", wire.SetIPTablesRequest),
        ("PUT", "/policy", "SetPolicy", wire.SetPolicyRequest),
    ],
)
async def test_what_the_agent_refuses_is_no_success(
    sandbox: Sandbox, peer: Peer, method: str, target: str, call: str, request_type: type[Any]
) -> None:
    serve(peer, call, request_type, UnsupportedError("this guest has none"))

    response = await ask(sandbox, target, method, b"text")

    assert (response.status, response.body) == (501, b"this guest has none\n")


async def test_rules_and_policies_reach_an_agent_that_has_them(sandbox: Sandbox, peer: Peer) -> None:
    serve(peer, "GetIPTables", wire.GetIPTablesRequest, wire.GetIPTablesResponse(data=b"*nat\n"))
    serve(peer, "SetIPTables", wire.SetIPTablesRequest, wire.SetIPTablesResponse())
    serve(peer, "SetPolicy", wire.SetPolicyRequest, wire.SetPolicyRequest())
    peer.calls.clear()

    answers = [
        await ask(sandbox, "/ip6tables"),
        await ask(sandbox, "/iptables", "PUT", b"*filter\n"),
        await ask(sandbox, "/policy", "PUT", b"package p"),
    ]

    assert [(answer.status, answer.body) for answer in answers] == [(200, b"*nat\n"), (200, b""), (200, b"")]
    assert [request for _, request in peer.calls] == [
        wire.GetIPTablesRequest(is_ipv6=True),
        wire.SetIPTablesRequest(data=b"*filter\n"),
        wire.SetPolicyRequest(policy="package p"),
    ]


def add_container(sandbox: Sandbox, tmp_path: Path, source: str, status: Status = Status.CREATING) -> None:
    assert sandbox.vm is not None
    bundle = Bundle(str(tmp_path), {"root": {"path": "rootfs"}})
    record = store.ContainerRecord("c", "s", bundle.path, os.getpid(), status, name_moment())
    shared = (Shared(source, "c-0123-volume", readonly=False),)
    sandbox.containers["c"] = Container(str(tmp_path), sandbox.vm.guest, bundle, record, shared)


async def test_a_volume_is_found_by_its_path_on_the_host(sandbox: Sandbox, peer: Peer, tmp_path: Path) -> None:
    stats = csi.VolumeStatsResponse(
        usage=[csi.VolumeUsage(available=1, total=3, used=2, unit=1)],
        volume_condition=csi.VolumeCondition(message="OK"),
    )
    serve(peer, "GetVolumeStats", wire.VolumeStatsRequest, stats)
    add_container(sandbox, tmp_path, "/data/a volume")

    response = await ask(sandbox, "/direct-volume/stats?path=%2Fdata%2Fa%20volume")

    assert json.loads(response.body) == {
        "usage": [{"available": 1, "total": 3, "used": 2, "unit": 1}],
        "volume_condition": {"abnormal": False, "message": "OK"},
    }
    path = "/run/kata-containers/shared/containers/c-0123-volume"
    assert peer.calls[-1][1] == wire.VolumeStatsRequest(volume_guest_path=path)
    assert (await ask(sandbox, "/direct-volume/stats?path=/data")).status == 404
    assert (await ask(sandbox, "/direct-volume/stats")).status == 400


async def test_a_volume_that_cannot_be_resized_is_not_said_to_be(sandbox: Sandbox, tmp_path: Path) -> None:
    add_container(sandbox, tmp_path, "/data")

    answers = [
        await ask(sandbox, "/direct-volume/resize", "POST", body)
        for body in (b'{"VolumePath": "/data", "Size": 4096}', b'{"VolumePath": "/other", "Size": 1}', b"[]", b"{")
    ]

    assert [answer.status for answer in answers] == [501, 404, 400, 400]


async def test_other_paths_and_methods_are_told_what_there_is(sandbox: Sandbox) -> None:
    nothing, wrong = await ask(sandbox, "/debug/vars"), await ask(sandbox, "/policy")

    assert (nothing.status, b"/metrics" in nothing.body) == (404, True)
    assert (wrong.status, wrong.headers["allow"]) == (405, "PUT")


async def test_a_volume_that_the_guest_does_not_know_is_not_found(sandbox: Sandbox, peer: Peer, tmp_path: Path) -> None:
    serve(peer, "GetVolumeStats", wire.VolumeStatsRequest, NotFoundError("there is no volume"))
    add_container(sandbox, tmp_path, "/data")

    assert (await ask(sandbox, "/direct-volume/stats?path=/data")).status == 404
