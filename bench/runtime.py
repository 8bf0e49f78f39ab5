"""The runtimes under measurement, by their command lines."""

import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT = 600.0
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime's program with a state directory of its own, and the options of all its commands."""

    name: str
    program: str
    root: Path
    options: tuple[str, ...] = ()

    def build_command(self, *words: str) -> list[str]:
        return [self.program, "--root", str(self.root), *self.options, *words]

    def call(self, *words: str) -> None:
        """Run a command to its end. Raise CalledProcessError."""
        subprocess.run(self.build_command(*words), check=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT)


def find_runtimes(directory: Path) -> tuple[Runtime, Runtime]:
    """Return kata-runtime (or what KATA_RUNTIME names) and runc. Raise FileNotFoundError."""
    kata = Runtime("kata", os.environ.get("KATA_RUNTIME") or "kata-runtime", directory / "kata")
    runc = Runtime("runc", "runc", directory / "runc")
    for runtime in (kata, runc):
        if shutil.which(runtime.program) is None:
            raise FileNotFoundError(f"{runtime.program} is not installed")
    return kata, runc


def find_peers(directory: Path, bundle: Path, own: Runtime) -> tuple[list[Runtime], dict[str, str]]:
    """Return other runtimes of PATH that run a bundle here, and for each that does not, by its name, why."""
    found: list[Runtime] = []
    absent: dict[str, str] = {}
    for name, program in (("crun", "crun"), ("runsc", "runsc"), ("upstream", "kata-runtime")):
        path = _find_other(program, shutil.which(own.program))
        if path is None:
            absent[name] = f"no {program} on PATH" + (" but this project's" if program == "kata-runtime" else "")
            continue
        peer = Runtime(name, path, directory / name)
        done = subprocess.run(
            _build_run(peer, bundle),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT,
            check=False,
        )
        if done.returncode or not done.stdout:
            said = done.stderr.strip().splitlines()
            absent[name] = f"{path} refused: {said[-1] if said else f'exit status {done.returncode}'}"
        else:
            found.append(peer)
    return found, absent


def _find_other(program: str, own: str | None) -> str | None:
    """Return the first program of this name on PATH that is not our own, nor another installation of it."""
    for place in os.get_exec_path():
        path = os.path.join(place, program)
        if os.access(path, os.X_OK) and path != own and b"from kata.cli.main" not in Path(path).read_bytes()[:4096]:
            return path
    return None


def name_container() -> str:
    return f"bench-{os.getpid()}-{next(_numbers)}"


def time_first_output(runtime: Runtime, bundle: Path) -> float:
    """Return the seconds from the command to the first output of a container that says a word and ends."""
    began = time.monotonic()
    with _open_command(_build_run(runtime, bundle), stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        said = os.read(process.stdout.fileno(), 4096)
        took = time.monotonic() - began
    if not said:
        raise RuntimeError(f"{runtime.name} ran {bundle} without a word of it")
    return took


@contextmanager
def create_container(runtime: Runtime, bundle: Path) -> Iterator[str]:
    """Create a container, yield its id, and delete it whatever happened to it."""
    container = name_container()
    runtime.call("create", "--bundle", str(bundle), container)
    try:
        yield container
    finally:
        runtime.call("delete", "--force", container)


def read_output(runtime: Runtime, bundle: Path) -> str:
    """Run a bundle to its end and return what it says. Raise CalledProcessError."""
    command = _build_run(runtime, bundle)
    done = subprocess.run(
        command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT
    )
    return done.stdout


def time_output(runtime: Runtime, bundle: Path, size: int) -> float:
    """Return the seconds in which `run` delivers `size` bytes, from the first byte to the last. Raise RuntimeError."""
    return time_command_output(_build_run(runtime, bundle), size)


def time_command_output(command: Sequence[str], size: int) -> float:
    """Do the same of any command that writes `size` bytes."""
    with _open_command(command, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        began, received = 0.0, 0
        while data := os.read(process.stdout.fileno(), 1 << 20):
            began = began or time.monotonic()
            received += len(data)
        took = time.monotonic() - began
    if received != size:
        raise RuntimeError(f"{' '.join(command)} delivered {received} of {size} bytes")
    return took


def time_input(runtime: Runtime, bundle: Path, size: int) -> float:
    """Return the seconds in which a container that reads its input takes `size` bytes, from its first word on."""
    return time_command_input(_build_run(runtime, bundle), size)


def time_command_input(command: Sequence[str], size: int) -> float:
    """Do the same of any command that says a word, reads `size` bytes and tells how many those were."""
    block = bytes(1 << 20)
    with _open_command(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 64)
        began = time.monotonic()
        for _ in range(size // len(block)):
            process.stdin.write(block)
        process.stdin.close()
        counted = process.stdout.read()
        took = time.monotonic() - began
    if int(counted) != size:
        raise RuntimeError(f"{' '.join(command)} took {counted!r} of {size} bytes")
    return took


def _build_run(runtime: Runtime, bundle: Path) -> list[str]:
    return runtime.build_command("run", "--bundle", str(bundle), name_container())


@contextmanager
def _open_command(command: Sequence[str], *, stdin: int) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE) as process:
        try:
            yield process
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def list_children(pid: int) -> Iterator[int]:
    """Yield the processes below a process, it included: /proc/PID/task/TID/children, proc(5)."""
    yield pid
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
            yield from list_children(int(child))
