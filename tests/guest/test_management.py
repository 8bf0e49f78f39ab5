"""The management socket and the metrics of a real sandbox, asked with curl and the command line."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from engine import Container, Engine, add_mount
from kata.protocol.exposition import Family, parse_families


def curl(engine: Engine, sandbox: str, target: str, *words: str) -> tuple[int, str]:
    """Return status and body of what the sandbox answers."""
    if shutil.which("curl") is None:
        pytest.skip("the program curl is missing; run tools/install-host-packages test")
    socket = engine.find_sandbox(sandbox) / "shim-monitor.sock"
    command = ["curl", "--silent", "--max-time", "30", "--write-out", "\n%{http_code}", "--unix-socket", str(socket)]
    done = subprocess.run([*command, *words, f"http://kata{target}"], capture_output=True, text=True, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def scrape(engine: Engine, sandbox: str) -> dict[str, Family]:
    return {family.name: family for family in parse_families(engine.succeed("metrics", sandbox))}


def test_the_figures_of_a_sandbox_are_those_of_its_processes(engine: Engine, pod: Container) -> None:
    families = scrape(engine, pod.id)

    status = Path(f"/proc/{engine.find_process('qemu', pod.id)}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0]) * 1024
    items = {sample.labels["item"]: sample.value for sample in families["kata_hypervisor_proc_status"].samples}
    assert items["vmrss"] == pytest.approx(resident, rel=0.2)
    memory = {sample.labels["item"]: sample.value for sample in families["kata_guest_meminfo"].samples}
    assert 200 << 20 < memory["mem_total"] < 512 << 20
    assert families["kata_agent_total_rss"].samples[0].value > 1 << 20
    assert families["kata_virtiofsd_threads"].samples[0].value >= 1
    calls = {sample.labels["action"] for sample in families["kata_shim_rpc_durations_histogram_milliseconds"].samples}
    assert {"create_container", "start_container"} <= calls


def test_each_path_answers_curl_with_what_is_true(engine: Engine, pod: Container) -> None:
    directory = engine.find_sandbox(pod.id)
    status, metrics = curl(engine, pod.id, "/metrics")
    assert (status, "kata_guest_load" in metrics) == (200, True)
    status, url = curl(engine, pod.id, "/agent-url")
    assert status == 200
    assert url.startswith("vsock://") or url == f"unix://{directory}/vport-1024.sock"

    put = ("--request", "PUT", "--data-binary", "*filter\nCOMMIT\n")
    for target, words in (("/iptables", ()), ("/ip6tables", ()), ("/iptables", put), ("/ip6tables", put)):
        status, text = curl(engine, pod.id, target, *words)
        assert (status, "image has no iptables" in text) == (501, True)
    status, text = curl(engine, pod.id, "/policy", "--request", "PUT", "--data", "package agent_policy")
    assert (status, "no policy engine" in text) == (501, True)
    assert curl(engine, pod.id, "/nothing")[0] == 404


def test_a_volumes_fill_is_told_by_its_path_on_the_host(engine: Engine, pod: Container, tmp_path: Path) -> None:
    mount = add_mount("/data", "bind", str(tmp_path), "rbind")
    with engine.hold("sleep", "1000", pod=pod.id, change=mount):
        status, text = curl(engine, pod.id, f"/direct-volume/stats?path={tmp_path}")
        resize = json.dumps({"VolumePath": str(tmp_path), "Size": 1 << 30})
        refused, why = curl(engine, pod.id, "/direct-volume/resize", "--data", resize)

    assert status == 200
    stats = json.loads(text)
    free = shutil.disk_usage(tmp_path)
    in_bytes = next(row for row in stats["usage"] if row["unit"] == 1)
    assert in_bytes["total"] == free.total
    assert in_bytes["used"] + in_bytes["available"] == in_bytes["total"]
    assert (refused, "its size is the host's" in why) == (501, True)
    assert curl(engine, pod.id, f"/direct-volume/stats?path={tmp_path}")[0] == 404


def test_a_sandbox_that_is_gone_has_no_metrics(engine: Engine) -> None:
    with engine.hold("sleep", "1000", name="gone") as gone:
        socket = engine.find_sandbox(gone.id) / "shim-monitor.sock"
        assert socket.is_socket()

    done = engine.run("metrics", gone.id)
    assert (done.code, "does not exist" in done.err) == (1, True)
    assert not socket.exists()
