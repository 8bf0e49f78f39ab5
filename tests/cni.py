"""A pod's network made by Debian's CNI plug-ins, in the order and with the words of containerd's CRI and CRI-O.

Source: the CNI specification 0.4.0.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from netns import run_ip

_PLUGINS = Path("/usr/lib/cni")
_VERSION = "0.4.0"
CNI_RATE = 8_000_000
"""Bits a second."""


@dataclass(frozen=True, slots=True)
class CniNet:
    """A pod's namespace, what the plug-ins gave it, and the port of the host that leads to its port 8080."""

    name: str
    address: str
    gateway: str
    host_port: int

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"


@contextlib.contextmanager
def make_cni_network(token: str, directory: Path, kind: str = "bridge", host_port: int = 18080) -> Iterator[CniNet]:
    """Have loopback, `kind` (bridge or ptp) with host-local, firewall, bandwidth and portmap set up a pod meanwhile.

    What the pod sends is limited to `CNI_RATE`.
    """
    needed = (kind, "host-local", "loopback", "firewall", "portmap", "bandwidth")
    missing = [name for name in needed if not (_PLUGINS / name).exists()]
    if missing:
        pytest.skip(f"NO CNI plug-ins {', '.join(missing)}: run tools/install-host-packages test")
    ports = {"portMappings": [{"hostPort": host_port, "containerPort": 8080, "protocol": "tcp"}]}
    ranges = [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]]
    ipam = {
        "type": "host-local",
        "ranges": ranges,
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        "dataDir": str(directory),
    }
    bridge = f"b{token}"[:15]
    own = {"bridge": bridge, "isGateway": True} if kind == "bridge" else {}
    chain: list[dict[str, Any]] = [
        {"type": kind, **own, "ipMasq": True, "mtu": 1450, "ipam": ipam},
        {"type": "firewall", "backend": "iptables"},
        {"type": "bandwidth", "egressRate": CNI_RATE, "egressBurst": CNI_RATE // 10},
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True, "runtimeConfig": ports},
    ]
    name = f"{token}-cni"
    run_ip("netns", "add", name)
    try:
        _run_plugin("ADD", name, "lo", {"type": "loopback"})
        result: dict[str, Any] = {}
        for link in chain:
            result = _run_plugin("ADD", name, "eth0", {**link, **({"prevResult": result} if result else {})})
        first = result["ips"][0]
        yield CniNet(name, first["address"].partition("/")[0], first["gateway"], host_port)
        for link in reversed(chain):
            _run_plugin("DEL", name, "eth0", {**link, "prevResult": result})
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False, timeout=10)
        subprocess.run(["ip", "link", "delete", bridge], check=False, capture_output=True, timeout=10)


def _run_plugin(command: str, name: str, interface: str, network: dict[str, Any]) -> dict[str, Any]:
    environment = {
        **os.environ,
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": name,
        "CNI_NETNS": f"/run/netns/{name}",
        "CNI_IFNAME": interface,
        "CNI_PATH": str(_PLUGINS),
    }
    done = subprocess.run(
        [_PLUGINS / network["type"]],
        input=json.dumps({"cniVersion": _VERSION, "name": "kata-test", **network}),
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, (network["type"], command, done.stdout, done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout or "{}")
    return answer
