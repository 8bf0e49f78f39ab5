"""A real dockerd with directories of its own, on a containerd of the tests; its runtime `kata` is the tree's CLI."""

import os
import subprocess
import time
from pathlib import Path
from typing import Self

from client import Client
from containerd.daemon import RUNTIME, Containerd
from howto import find_block
from kata.sys import mount
from podman.images import build_busybox

IMAGE = "busybox"
_INSTALLED = "/usr/local/bin/kata-runtime"
_START_TIMEOUT = 60.0
_LAUNCHER = """#!/usr/bin/python3 -IS
import sys
sys.path.insert(0, {source!r})
sys.argv[1:1] = ["--config", {configuration!r}]
from kata.cli.main import main
sys.exit(main())
"""


class Docker:
    """One daemon until the block ends, to be entered by a thread in a network namespace of the test's own."""

    def __init__(self, containerd: Containerd, dockerd: Path, docker: str) -> None:
        """`containerd` is running; its namespace is the daemon's too. `docker` is the client."""
        self.containerd = containerd
        self.place = containerd.place
        self._dockerd = dockerd
        self._words = [docker, "--host", f"unix://{self.place}/d.sock"]
        launcher = self.place / "bin/kata-runtime"
        launcher.write_text(
            _LAUNCHER.format(source=str(Path(__file__).parents[2] / "src"), configuration=str(self.place / "kata.toml"))
        )
        launcher.chmod(0o755)
        settings = find_block("docker", "runtimes", "json")
        assert _INSTALLED in settings
        (self.place / "docker.json").write_text(settings.replace(_INSTALLED, str(launcher)))
        self._process: subprocess.Popen[bytes] | None = None

    def client(self, runtime: str = RUNTIME) -> Client:
        """Return the client, whose containers have this runtime."""
        return Client(self._words, runtime, IMAGE, self.containerd.token)

    def __enter__(self) -> Self:
        self.start()
        command = [*self._words, "import", "--change", "ENV PATH=/bin", str(build_busybox()), IMAGE]
        subprocess.run(command, check=True, capture_output=True, timeout=_START_TIMEOUT)
        return self

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        place, token = self.place, self.containerd.token
        environment = {**os.environ, "PATH": f"{self._dockerd.parent}:{os.environ['PATH']}"}
        with (place / "docker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(self._dockerd), "--config-file", f"{place}/docker.json", "--host", f"unix://{place}/d.sock"),
                    *("--data-root", f"{place}/docker", "--exec-root", f"{place}/exec", "--pidfile", f"{place}/d.pid"),
                    *("--containerd", self.containerd.address, "--containerd-namespace", token),
                    *("--containerd-plugins-namespace", f"{token}-plugins"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while subprocess.run([*self._words, "version"], capture_output=True, check=False, timeout=30).returncode:
            assert self._process.poll() is None, self.read_log()
            assert time.monotonic() < deadline, f"dockerd does not answer: {self.read_log()}"

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(_START_TIMEOUT)

    def __exit__(self, *_failure: object) -> None:
        self.stop()
        mount.unmount_below(str(self.place))  # dockerd leaves the network namespace that it mounted there

    def read_log(self) -> str:
        """Return the end of what dockerd said."""
        return (self.place / "docker.log").read_text(errors="replace")[-4000:]
