"""A real containerd with directories of its own, and `ctr` to drive it; the shim is that of this tree."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import leaks
from containerd.images import IMAGE, write_image
from engine import HYPERVISOR, begin_table

_WARNING = re.compile(r'^time="[^"]*" level=warning .*\n', re.MULTILINE)
"""What ctr 2.x itself says, such as that the host's cgroup version is old."""

RUNTIME = "io.containerd.kata.v2"
_TIMEOUT = 120.0
_TREE = Path(__file__).parents[2]
_ARTEFACTS = Path(os.environ.get("KATA_ARTEFACTS", "/usr/local/share/kata-containers"))
_LAUNCHER = """#!/usr/bin/python3 -IS
import sys
sys.path.insert(0, {source!r})
from kata.shim.main import main
sys.exit(main())
"""
_CONFIG = """
version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{place}/c.sock"
"""
_KATA = f"""
[factory]
enable_template = false

{begin_table(HYPERVISOR)}
kernel = "{{kernel}}"
image = "{{image}}"
default_memory = 512
"""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended; `out` is standard output."""

    code: int
    out: str
    err: str


def write_shim(place: Path) -> Path:
    """Write a launcher of this tree's shim, in a directory for PATH below `place`, and return its path."""
    shim = place / "bin/containerd-shim-kata-v2"
    shim.parent.mkdir(parents=True)
    shim.write_text(_LAUNCHER.format(source=str(_TREE / "src")))
    shim.chmod(0o755)
    return shim


def write_kata_configuration(place: Path, image: Path) -> Path:
    """Write the runtime's configuration with the guest's `image` and return its path."""
    configuration = place / "kata.toml"
    configuration.write_text(_KATA.format(kernel=_ARTEFACTS / "vmlinuz.container", image=image))
    return configuration


class Containerd:
    """One daemon of some version. `token` is in the name of each container, and of its namespace."""

    def __init__(self, place: Path, image: Path | None, token: str, programs: Path, more: str = "") -> None:
        """`programs` is the directory of `containerd` and the `ctr` of its version; `more` is of its configuration.

        Without an `image` of the guest's, shims and their configuration are those that are installed.
        """
        self.place = place
        self.programs = programs
        self.token = token
        self.address = f"{place}/c.sock"
        self._count = 0
        (place / "config.toml").write_text(_CONFIG.format(place=place) + more)
        self._environment = dict(os.environ)
        if image is not None:
            shim = write_shim(place)
            self._environment["PATH"] = f"{shim.parent}:{os.environ['PATH']}"
            self._environment["KATA_CONF_FILE"] = str(write_kata_configuration(place, image))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        archive = write_image(self.place / "image.tar")
        self.succeed("images", "import", str(archive))
        return self

    @contextmanager
    def configure(self, more: str) -> Iterator[None]:
        """Have more lines in the configuration of the runtime during the block."""
        file = self.place / "kata.toml"
        before = file.read_text()
        file.write_text(before + more)
        try:
            yield
        finally:
            file.write_text(before)

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        with (self.place / "containerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.programs / "containerd"), "--config", str(self.place / "config.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        deadline = time.monotonic() + 30
        while self.run("version").code:
            assert self._process.poll() is None, (self.place / "containerd.log").read_text()
            assert time.monotonic() < deadline, "containerd does not answer"

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def kill(self) -> None:
        """End the daemon as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)

    def __exit__(self, *_failure: object) -> None:
        for name in self.succeed("tasks", "ls", "-q").split():
            self.run("tasks", "delete", "--force", name)
        for name in self.succeed("containers", "ls", "-q").split():
            self.run("containers", "rm", name)
        self.stop()

    def name(self, what: str) -> str:
        self._count += 1
        return f"{self.token}-{self._count}-{what}"

    def command(self, *words: str) -> list[str]:
        return [str(self.programs / "ctr"), "--address", self.address, "--namespace", self.token, *words]

    def run(self, *words: str, stdin: str | None = None, timeout: float = _TIMEOUT) -> Done:
        """Run ctr to its end."""
        done = subprocess.run(
            self.command(*words), input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
        return Done(done.returncode, done.stdout, _WARNING.sub("", done.stderr))

    def succeed(self, *words: str, stdin: str | None = None, timeout: float = _TIMEOUT) -> str:
        done = self.run(*words, stdin=stdin, timeout=timeout)
        assert done.code == 0, (words, done)
        return done.out

    def run_container(
        self, *words: str, flags: tuple[str, ...] = (), stdin: str | None = None, runtime: str = RUNTIME
    ) -> Done:
        """`ctr run --rm` with the runtime under test."""
        return self.run("run", "--rm", "--runtime", runtime, *flags, IMAGE, self.name("run"), *words, stdin=stdin)

    @contextmanager
    def hold(
        self,
        *words: str,
        flags: tuple[str, ...] = (),
        name: str = "",
        timeout: float = _TIMEOUT,
        runtime: str = RUNTIME,
    ) -> Iterator[str]:
        """Have a detached container during the block. `timeout` is for its start, in seconds."""
        name = name or self.name("held")
        try:
            self.succeed("run", "-d", "--runtime", runtime, *flags, IMAGE, name, *words, timeout=timeout)
            yield name
        finally:
            self.remove(name)

    def remove(self, container: str) -> None:
        """Take a container away, in whatever state it is, if it is there."""
        self.run("tasks", "delete", "--force", container)
        self.run("containers", "rm", container)

    def execute(self, container: str, *words: str, flags: tuple[str, ...] = (), stdin: str | None = None) -> Done:
        return self.run("tasks", "exec", "--exec-id", self.name("exec"), *flags, container, *words, stdin=stdin)

    def find_status(self, container: str) -> str:
        rows = [line.split() for line in self.succeed("tasks", "ls").splitlines()]
        return next((row[2] for row in rows if row[0] == container), "")

    def find_pid(self, container: str) -> int:
        rows = [line.split() for line in self.succeed("tasks", "ls").splitlines()]
        return next(int(row[1]) for row in rows if row[0] == container)

    def find_shim(self, container: str) -> int:
        """Return the pid of a container's shim, which has started the process that stands for the container."""
        return int(Path(f"/proc/{self.find_pid(container)}/stat").read_text().rpartition(")")[2].split()[1])

    def find_process(self, container: str, program: str) -> int:
        """Return the pid of the process of a container's sandbox whose program's name begins like this."""
        [pid] = [
            int(line.split()[1].rstrip(":"))
            for line in self.find_traces(container)
            if re.match(rf"process \d+: (\S*/)?{program}", line)
        ]
        return pid

    def find_traces(self, word: str) -> set[str]:
        """Return what is on this host whose name holds `word`: a container's id, or the token for all."""
        found = leaks.find_traces(word, Path("/run/kata"))
        return {line for line in found if word in line and "containerd --config" not in line}

    def wait_until_gone(self, container: str) -> set[str]:
        """Wait until nothing on this host has the id: containerd cleans up after a shim in the background."""
        return leaks.wait_until_gone(container, Path("/run/kata"))
