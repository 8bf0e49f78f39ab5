"""One containerd for the module, in a network namespace of its own, and nerdctl on it with CNI's plug-ins."""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from client import Client
from containerd.daemon import RUNTIME, Containerd
from containerd.images import IMAGE
from engine_fixtures import guest_image
from netns import enter_network_namespace, run_ip
from peers import require_program

__all__ = ["guest_image"]

_PLUGINS = Path("/usr/lib/cni")
_LEASES = Path("/var/lib/cni/networks/bridge")


@dataclass(frozen=True, slots=True)
class Nerdctl:
    """The client, its daemon, and the directory of both."""

    client: Client
    daemon: Containerd

    @property
    def place(self) -> Path:
        return self.daemon.place


@pytest.fixture(scope="module")
def nerdctl(guest_image: Path) -> Iterator[Nerdctl]:
    missing = [name for name in ("iptables", "tar") if shutil.which(name) is None]
    plugins = ("bridge", "host-local", "loopback", "portmap", "firewall", "tuning")
    missing += [f"CNI's {name}" for name in plugins if not (_PLUGINS / name).exists()]
    if missing:
        pytest.skip(f"NO NETWORK for nerdctl: missing {', '.join(missing)}; run tools/install-host-packages test")
    program = require_program("nerdctl", "nerdctl")
    containerd = require_program("containerd", "containerd")
    place = Path(tempfile.mkdtemp(prefix="kata-n-"))  # short: containerd's socket paths have 106 bytes
    token = f"n{secrets.token_hex(4)}"
    leases = list_leases()
    try:
        with enter_network_namespace():
            run_ip("link", "set", "lo", "up")
            with Containerd(place, guest_image, token, Path(containerd).parent) as daemon:
                yield Nerdctl(Client(_build_command(program, daemon), RUNTIME, IMAGE, token), daemon)
        left = daemon.wait_until_gone(token)
        assert not left, "left behind:\n" + "\n".join(sorted(left))
        assert list_leases() <= leases
    finally:
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(f"/run/nerdctl/{token}", ignore_errors=True)


def _build_command(program: str, daemon: Containerd) -> list[str]:
    """Have nerdctl keep to the test's directory, but for the addresses it gives: host-local has one place for them."""
    place = daemon.place
    return [
        *("env", f"NERDCTL_TOML={place}/nerdctl.toml", program),
        *("--address", daemon.address, "--namespace", daemon.token, "--data-root", f"{place}/nerdctl"),
        *("--cni-path", str(_PLUGINS), "--cni-netconfpath", f"{place}/net.d"),
    ]


def list_leases() -> set[str]:
    """Return the addresses of nerdctl's default network that containers have, of this test or of others."""
    return {path.name for path in _LEASES.iterdir() if path.name[0].isdigit()} if _LEASES.exists() else set()
