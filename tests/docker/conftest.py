"""A dockerd of each version in turn, in a network namespace of its own, and the client on it."""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from client import Client
from containerd.daemon import RUNTIME, Containerd
from docker.daemon import Docker
from engine_fixtures import guest_image
from netns import enter_network_namespace, run_ip
from peers import require_installed, require_program

__all__ = ["guest_image"]


@dataclass(frozen=True, slots=True)
class Engine:
    """A daemon, and its client with the runtime by which that version starts VMs."""

    daemon: Docker
    client: Client


@pytest.fixture(scope="module", params=["docker", "docker-debian"])
def engine(request: pytest.FixtureRequest, guest_image: Path) -> Iterator[Engine]:
    peer: str = request.param
    require_installed("iptables")
    require_installed("runc")
    dockerd = Path(require_program(peer, "dockerd"))
    docker = require_program("docker-cli", "docker")
    # The shim that calls a runtime's command line has to be of containerd's own version: Debian's here.
    containerd = require_program("containerd", "containerd") if peer == "docker" else require_installed("containerd")
    place = Path(tempfile.mkdtemp(prefix="kata-d-"))  # short: containerd's socket paths have 106 bytes
    token = f"d{secrets.token_hex(4)}"
    try:
        with enter_network_namespace():
            run_ip("link", "set", "lo", "up")
            with (
                Containerd(place, guest_image, token, Path(containerd).parent) as below,
                Docker(below, dockerd, docker) as daemon,
            ):
                yield Engine(daemon, daemon.client(RUNTIME if peer == "docker" else "kata"))
        left = below.wait_until_gone(token)
        assert not left, "left behind:\n" + "\n".join(sorted(left))
    finally:
        shutil.rmtree(place, ignore_errors=True)
