"""What a shim costs: the instructions of its imports, and the memory of an idle one. See docs/performance.md.

Instructions are counted by valgrind, which gives the same number on a busy machine as on an idle one.
"""

import os
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kata.protocol.messages import task as wire
from kata.protocol.messages.types import Empty
from kata.shim.address import find_path
from kata.transport.ttrpc_blocking import connect_blocking

_SOURCE = str(Path(__file__).parents[3] / "src")
_PROGRAM = """
import sys
sys.path.insert(0, {!r})
from kata.shim import start
start.POOL = {!r}
from kata.shim.main import main
sys.exit(main())
"""
_MEMORY_KIB = 20_000

_IMPORTS = {
    "start": ("import kata.shim.main, kata.shim.start", 20),
    "start, protobuf": ("import kata.shim.main, kata.shim.start, kata.protocol.messages.bootstrap", 24),
    "daemon": ("from kata.sys.deferred import defer_modules; defer_modules(); import kata.shim.daemon", 230),
}
"""What is imported, and the millions of instructions that it may take beyond the interpreter's own start.

In processor time that is 25 ms for all of `start`, and 80 ms for the daemon.
"""

_OF_A_VM = {"config", "hypervisor", "network", "resources", "storage"}
_DEFERRED = {"concurrent.futures", "inspect", "logging", "subprocess", "traceback"}


def _measure_shim(bundle: Path, name: str) -> int:
    """Start a shim and let it answer; return its proportional memory in KiB."""
    words = ["-namespace", "unit", "-address", str(bundle / "c.sock"), "-id", name, "start"]
    command = [sys.executable, "-IS", "-c", _PROGRAM.format(_SOURCE, f"{bundle}/no-pool"), *words]
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


def _count_instructions(code: str) -> int:
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    # The interpreter of a virtual environment reads more at its start than the one that a shim runs by.
    command += ["/usr/bin/python3", "-IS", "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stderr
    found = re.search(r"I\s+refs:\s+([\d,]+)", said)
    assert found, said
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("what", _IMPORTS)
def test_imports_take_no_more_instructions_than_their_budget(what: str) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("there is no valgrind to count instructions: run tools/install-host-packages test")
    code, millions = _IMPORTS[what]
    program = f"import sys; sys.path.insert(0, {_SOURCE!r}); {code}"
    subprocess.run(["/usr/bin/python3", "-IS", "-c", program], timeout=60, check=True)  # writes the byte code

    assert _count_instructions(program) - _count_instructions("pass") <= millions * 1_000_000


def test_a_daemon_is_ready_without_what_only_its_vm_needs() -> None:
    program = f"import sys; sys.path.insert(0, {_SOURCE!r}); {_IMPORTS['daemon'][0]}\n"
    program += "print(*(name for name, module in sys.modules.items() if type(module).__name__ == 'module'))"
    command = ["/usr/bin/python3", "-IS", "-c", program]
    modules = set(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split())

    assert not modules & _DEFERRED
    assert not {name for name in modules if name.startswith("kata.") and name.split(".")[1] in _OF_A_VM}
