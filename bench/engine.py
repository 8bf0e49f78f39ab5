"""containerd with directories of its own, driven by `ctr`: both runtimes as an engine runs them."""

import itertools
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT = 600.0
_NAMESPACE = "bench"
_SHIMS = {"kata": "io.containerd.kata.v2", "runc": "io.containerd.runc.v2"}
_CONFIG = """
version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{place}/c.sock"
"""
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Engine:
    """A running containerd below `place`."""

    place: Path

    def build_command(self, *words: str) -> list[str]:
        return ["ctr", "--address", f"{self.place}/c.sock", "--namespace", _NAMESPACE, *words]

    def call(self, *words: str) -> None:
        """Run ctr to its end. Raise CalledProcessError."""
        subprocess.run(self.build_command(*words), check=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT)

    def build_exec(self, container: str, *words: str) -> list[str]:
        """Return the command that executes `words` in a container."""
        return self.build_command("tasks", "exec", "--exec-id", f"e{next(_numbers)}", container, *words)

    @contextmanager
    def hold(self, runtime: str, rootfs: Path) -> Iterator[str]:
        """Have a container that sleeps, of `kata` or `runc`, during the block."""
        container = f"{runtime}-{next(_numbers)}"
        flags = ("-d", "--runtime", _SHIMS[runtime], "--env", "PATH=/bin", "--rootfs", str(rootfs))
        self.call("run", *flags, container, "sleep", "1000000")
        try:
            yield container
        finally:
            self.call("tasks", "delete", "--force", container)
            self.call("containers", "rm", container)


@contextmanager
def start_engine(place: Path) -> Iterator[Engine]:
    """Have a containerd during the block. Raise FileNotFoundError, RuntimeError when it does not answer."""
    for program in ("containerd", "ctr", "containerd-shim-kata-v2", "containerd-shim-runc-v2"):
        if shutil.which(program) is None:
            raise FileNotFoundError(f"{program} is not installed")
    place.mkdir()
    (place / "config.toml").write_text(_CONFIG.format(place=place))
    engine = Engine(place)
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            ["containerd", "--config", str(place / "config.toml")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        _wait_for_answer(engine, process)
        yield engine
    finally:
        process.terminate()
        process.wait()


def _wait_for_answer(engine: Engine, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while subprocess.run(engine.build_command("version"), capture_output=True, check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"containerd does not answer: {(engine.place / 'log').read_text()[-2000:]}")


def time_exec(engine: Engine, container: str) -> float:
    """Return the seconds that executing `true` takes ctr. Raise CalledProcessError."""
    command = engine.build_exec(container, "true")
    began = time.monotonic()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT)
    return time.monotonic() - began


def read_shim(engine: Engine, container: str) -> int:
    """Return the pid of the daemon that serves a container of kata's. Raise FileNotFoundError."""
    bundle = engine.place / "state/io.containerd.runtime.v2.task" / _NAMESPACE / container
    return int((bundle / "shim.pid").read_text())
