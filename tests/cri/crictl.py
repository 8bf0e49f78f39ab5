"""crictl(8) as a program: pods and containers of one handler on a daemon."""

import contextlib
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

import leaks
from containerd.daemon import Done
from cri.daemon import CriDaemon, find_major
from cri.images import BUSYBOX
from peers import require_program
from program import TIMEOUT, Program

_SANDBOX_API_SINCE = 2


class CriService(Protocol):
    """A daemon that serves the CRI: the directory of its files, and its endpoint as crictl takes it."""

    place: Path
    address: str

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Crictl(Program):
    """Drives `daemon` with the handler `handler`. `token` is in the name of each pod."""

    def __init__(self, daemon: CriService, handler: str) -> None:
        self.daemon = daemon
        self.handler = handler
        self.token = f"k{secrets.token_hex(4)}"
        self.logs = daemon.place / "logs" / self.token
        self._program = require_program("cri-tools", "crictl")
        self._configuration = daemon.place / "crictl.yaml"
        endpoints = "".join(f"{kind}-endpoint: {daemon.address}\n" for kind in ("runtime", "image"))
        self._configuration.write_text(f"{endpoints}timeout: {TIMEOUT:.0f}\n")
        self._count = 0
        self._pods: dict[str, Path] = {}

    def command(self, *words: str) -> list[str]:
        return [self._program, "--config", str(self._configuration), *words]

    def read(self, *words: str) -> dict[str, Any]:
        """Return what a command that prints JSON tells."""
        document = json.loads(self.succeed(words[0], "--output", "json", *words[1:]))
        assert isinstance(document, dict)
        return document

    @contextlib.contextmanager
    def hold_pod(self, **config: object) -> Iterator[str]:
        """Have a pod during the block; `config` is more of its PodSandboxConfig. Yield its id."""
        self._count += 1
        file = self._write(
            f"{self.token}-pod-{self._count}.json",
            {
                "metadata": {"name": f"{self.token}-{self._count}", "namespace": "default", "uid": self.token},
                "log_directory": str(self.logs),
                "linux": {"cgroup_parent": f"/{self.token}"},
                **config,
            },
        )
        pod = self.succeed("runp", "--runtime", self.handler, str(file)).strip()
        self._pods[pod] = file
        try:
            yield pod
        finally:
            self.run("stopp", pod)
            self.run("rmp", "--force", pod)
            _remove_cgroups(self.token)

    def create(self, pod: str, *command: str, **config: object) -> str:
        """Create a container of busybox and return its id; `config` is more of its ContainerConfig."""
        self._count += 1
        name = f"c{self._count}"
        file = self._write(
            f"{self.token}-{name}.json",
            {
                "metadata": {"name": name},
                "image": {"image": BUSYBOX},
                "command": list(command),
                "log_path": f"{name}.log",
                "linux": {},
                **config,
            },
        )
        return self.succeed("create", "--with-pull", pod, str(file), str(self._pods[pod])).strip()

    def start(self, pod: str, *command: str, **config: object) -> str:
        """Create and start a container of busybox and return its id."""
        container = self.create(pod, *command, **config)
        self.succeed("start", container)
        return container

    def execute(self, container: str, *words: str, flags: tuple[str, ...] = (), stdin: str | None = None) -> Done:
        return self.run("exec", *flags, container, *words, stdin=stdin)

    def find_state(self, container: str) -> str:
        return str(self.read("inspect", container)["status"]["state"])

    def wait_for_state(self, container: str, state: str, *, timeout: float = 60.0) -> None:
        """Wait until `inspect` tells this state. Fail after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (seen := self.find_state(container)) != state:
            assert time.monotonic() < deadline, f"{container} is {seen}, not {state}"

    def wait_for_log(self, container: str, text: str, *, timeout: float = 60.0) -> None:
        """Wait until a container's log has a text. Fail after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while text not in (log := self.run("logs", container).out):
            assert time.monotonic() < deadline, f"the log of {container} is {log!r}"

    def wait_for_exit(self, container: str) -> dict[str, Any]:
        """Wait until a container has ended and return its status."""
        self.wait_for_state(container, "CONTAINER_EXITED")
        status = self.read("inspect", container)["status"]
        assert isinstance(status, dict)
        return status

    def find_traces(self, pod: str) -> set[str]:
        """Return what is on this host whose name holds the pod's id."""
        found = leaks.find_traces(pod, Path("/run/kata"))
        return {line for line in found if pod in line}

    def wait_until_gone(self, pod: str) -> set[str]:
        """Wait until nothing on this host has the pod's id: containerd cleans up after it in the background."""
        return leaks.wait_until_gone(pod, Path("/run/kata"))

    def _write(self, name: str, document: dict[str, object]) -> Path:
        file = self.daemon.place / name
        file.write_text(json.dumps(document))
        return file


def require_sandbox_api(crictl: Crictl) -> None:
    """Skip the test where containerd cannot let a shim make the sandbox."""
    assert isinstance(crictl.daemon, CriDaemon)
    if find_major(crictl.daemon.containerd) < _SANDBOX_API_SINCE:
        pytest.skip("NO SANDBOX API in this containerd: it came with 2.0; run tools/build-peer containerd")


def _remove_cgroups(name: str) -> None:
    """Remove the pods' parent, which a kubelet would own, from each hierarchy; what is in use stays, to be found."""
    for group in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        with contextlib.suppress(OSError):
            (group / name).rmdir()
