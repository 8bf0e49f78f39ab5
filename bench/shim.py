"""What the shim costs before there is a VM: its `start`, and its daemon until that answers."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from kata.protocol.messages import task as wire
from kata.protocol.messages.types import Empty
from kata.shim.address import find_path
from kata.transport.ttrpc_blocking import connect_blocking

_SHIM = "containerd-shim-kata-v2"
_TIMEOUT = 60.0


def time_shim(bundle: Path, name: str) -> tuple[float, float]:
    """Return the processor seconds of `start`, and of the daemon when it has answered its first call.

    Raise FileNotFoundError, CalledProcessError, GuestError.
    """
    program = shutil.which(_SHIM)
    if program is None:
        raise FileNotFoundError(f"{_SHIM} is not installed")
    bundle.mkdir()
    (bundle / "config.json").write_text(json.dumps({"ociVersion": "1.0.2"}))
    words = (program, "-namespace", "bench", "-address", str(bundle / "c.sock"), "-id", name, "start")
    started = subprocess.Popen(words, cwd=bundle, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        raise subprocess.CalledProcessError(started.returncode, words)
    pid = int((bundle / "shim.pid").read_text())
    client = connect_blocking(find_path((bundle / "address").read_text()), "shim", timeout=_TIMEOUT)
    try:
        client.call(wire.SERVICES[0], "Connect", wire.TaskRequest(id=name), wire.ConnectResponse, timeout=_TIMEOUT)
        ready = read_processor_time(pid)
        client.call(wire.SERVICES[0], "Shutdown", wire.ShutdownRequest(id=name), Empty, timeout=_TIMEOUT)
    finally:
        client.close()
    return usage.ru_utime + usage.ru_stime, ready


def read_processor_time(pid: int) -> float:
    """Return the seconds that a process's threads have run: /proc/PID/task/TID/schedstat counts nanoseconds."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
