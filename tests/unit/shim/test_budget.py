"""What an idle shim costs in memory. The figures are in docs/performance.md."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from kata.protocol.messages import task as wire
from kata.protocol.messages.types import Empty
from kata.shim.address import find_path
from kata.transport.ttrpc_blocking import connect_blocking

_SOURCE = str(Path(__file__).parents[3] / "src")
_PROGRAM = "import sys; sys.path.insert(0, {!r}); from kata.shim.main import main; sys.exit(main())"
_MEMORY_KIB = 20_000


def _measure_shim(bundle: Path, name: str) -> int:
    """Start a shim and let it answer; return its proportional memory in KiB."""
    words = ["-namespace", "unit", "-address", str(bundle / "c.sock"), "-id", name, "start"]
    command = [sys.executable, "-IS", "-c", _PROGRAM.format(_SOURCE), *words]
    subprocess.run(command, cwd=bundle, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=True)
    pid = int((bundle / "shim.pid").read_text())
    process = os.pidfd_open(pid)
    client = connect_blocking(find_path((bundle / "address").read_text()), "shim", timeout=20)
    try:
        client.call(wire.SERVICES[0], "Connect", wire.TaskRequest(id=name), wire.ConnectResponse, timeout=20)
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().partition("\nPss:")[2]
        client.call(wire.SERVICES[0], "Shutdown", wire.ShutdownRequest(id=name), Empty, timeout=20)
        assert select.select([process], [], [], 20)[0], "the shim does not end"
    finally:
        client.close()
        os.close(process)
    return int(rollup.split()[0])


def test_a_shim_that_serves_stays_small(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("a shim has mounts of its own, which only root may have")
    (tmp_path / "config.json").write_text("{}")

    assert _measure_shim(tmp_path, f"budget-{os.getpid()}") <= _MEMORY_KIB
