"""kata-monitor and a real Prometheus, with a real sandbox behind them."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine import Container, Engine

SOURCE = Path(__file__).parents[2] / "src"
MAIN = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from kata.monitor.main import main; sys.exit(main())"
_TIMEOUT = 60.0


def find_port() -> int:
    """Return a TCP port of loopback that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def query(port: int, expression: str) -> list[dict[str, dict[str, str]]]:
    """Return the series that Prometheus has for an expression, none while it starts."""
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: list[dict[str, dict[str, str]]] = json.load(answer)["data"]["result"]
            return found
    except urllib.error.URLError:
        return []


def test_prometheus_scrapes_the_sandboxes_of_the_node(engine: Engine, pod: Container, tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("MISSING prometheus: run tools/install-host-packages conformance")
    monitor, port = find_port(), find_port()
    config = tmp_path / "prometheus.yml"
    targets = [{"targets": [f"127.0.0.1:{monitor}"]}]
    job = {"job_name": "kata", "scrape_interval": "2s", "scrape_timeout": "2s", "static_configs": targets}
    config.write_text(json.dumps({"scrape_configs": [job]}))  # JSON is YAML
    watch = [sys.executable, "-IS", "-c", MAIN, f"-listen-address=127.0.0.1:{monitor}", f"--root={engine.root}"]
    scrape = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    wanted = f'kata_hypervisor_threads{{sandbox_id="{pod.id}"}}'
    with running(watch, tmp_path / "monitor.log") as program, running(scrape, tmp_path / "prometheus.log") as server:
        deadline = time.monotonic() + _TIMEOUT
        while not query(port, wanted) and time.monotonic() < deadline:
            assert program.poll() is None, (tmp_path / "monitor.log").read_text()
            assert server.poll() is None, (tmp_path / "prometheus.log").read_text()
        assert query(port, wanted), "Prometheus has no such series"
        assert query(port, f'kata_guest_load{{sandbox_id="{pod.id}"}}')
        assert query(port, "up")[0]["metric"]["job"] == "kata"
