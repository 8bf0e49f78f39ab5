"""A pod's network as a plug-in makes it: a namespace with a veth, whose other end is in a namespace of a peer."""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from kata.network.namespace import visit_namespace
from netns import read_ip, run_ip

MTU = 1400


@dataclass(frozen=True, slots=True)
class PodNet:
    """Names of the two namespaces below /run/netns. The pod's addresses end with 2, the peer's with 1."""

    pod: str
    peer: str

    @property
    def path(self) -> str:
        return f"/run/netns/{self.pod}"

    def join(self, spec: dict[str, Any]) -> None:
        """Give a container's spec the pod's namespace."""
        namespaces = [known for known in spec["linux"]["namespaces"] if known["type"] != "network"]
        spec["linux"]["namespaces"] = [*namespaces, {"type": "network", "path": self.path}]

    def connect(self) -> None:
        """Make what a network plug-in makes: a link with addresses, and default routes by it."""
        add_veth(self, "eth0", "10.5.0", "fd05:")
        run_ip("-n", self.peer, "addr", "add", "192.0.2.9/32", "dev", "lo")
        run_ip("-n", self.pod, "route", "add", "default", "via", "10.5.0.1")
        run_ip("-n", self.pod, "-6", "route", "add", "default", "via", "fd05::1")

    def run_peer(self, *words: str, stdin: str = "", timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
        """Run a command of busybox as the peer."""
        return subprocess.run(
            ["ip", "netns", "exec", self.peer, "busybox", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def listen(self, port: int) -> socket.socket:
        """Return a TCP socket of the peer that listens at a port on every address, IPv4 and IPv6."""
        namespace = os.open(f"/run/netns/{self.peer}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with visit_namespace(namespace):
                return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        finally:
            os.close(namespace)

    @contextlib.contextmanager
    def open_tap(self, name: str) -> Iterator[int]:
        """Have a tap in the pod's namespace during the block, and its descriptor: frames without any header."""
        namespace = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with visit_namespace(namespace):
                tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        finally:
            os.close(namespace)
        try:
            # TUNSETIFF with IFF_TAP and IFF_NO_PI (linux/if_tun.h).
            fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0002 | 0x1000))
            yield tap
        finally:
            os.close(tap)

    @contextlib.contextmanager
    def serve_name(self, name: str, address: str, *, place: str = "") -> Iterator[None]:
        """Answer whoever asks for the IPv4 address of a name during the block, by UDP and TCP. Source: RFC 1035.

        Asked is the peer, or with `place` this address in the pod's own namespace.
        """
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
        record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(address)

        def answer(query: bytes) -> bytes:
            end = query.index(b"\0", 12) + 5
            is_known = query[12:end] == labels + struct.pack(">HH", 1, 1)
            header = query[:2] + struct.pack(">HHHHH", 0x8180 if is_known else 0x8183, 1, is_known, 0, 0)
            return header + query[12:end] + (record if is_known else b"")

        with self._open_server(place, socket.SOCK_DGRAM) as datagrams, self._open_server(place) as listener:
            listener.listen()

            def answer_datagrams() -> None:
                while (asked := datagrams.recvfrom(512))[0]:
                    datagrams.sendto(answer(asked[0]), asked[1])

            def answer_connections() -> None:
                while True:
                    connection, _ = listener.accept()
                    with connection, connection.makefile("rwb") as stream:
                        query = stream.read(int.from_bytes(stream.read(2)))
                        if not query:
                            return
                        said = answer(query)
                        stream.write(len(said).to_bytes(2) + said)

            threads = [threading.Thread(target=work) for work in (answer_datagrams, answer_connections)]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    with self._open_server(place, kind, port=0) as stop:
                        stop.connect((place or "127.0.0.1", 53))
                        stop.send(b"")
                for thread in threads:
                    thread.join(10)

    def _open_server(
        self, place: str, kind: socket.SocketKind = socket.SOCK_STREAM, *, port: int = 53
    ) -> socket.socket:
        namespace = os.open(self.path if place else f"/run/netns/{self.peer}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with visit_namespace(namespace):
                opened = socket.socket(socket.AF_INET, kind)
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                opened.bind((place or "0.0.0.0", port))
                return opened
        finally:
            os.close(namespace)

    def find_peer_link(self, address: str) -> str:
        """Return the name of the peer's link with an address: the host's end of a veth."""
        return next(
            str(row["ifname"])
            for row in read_ip("-n", self.peer, "addr")
            if address in {known["local"] for known in row["addr_info"]}
        )

    @contextlib.contextmanager
    def enforce(self, chains: str) -> Iterator[None]:
        """Have these chains of nftables in the peer's namespace during the block, in the table `inet pod`."""
        if shutil.which("nft") is None:
            pytest.skip("NO nftables: no network policy can be made; run tools/install-host-packages test")
        self._run_nft("-f", "-", stdin=f"table inet pod {{\n{chains}\n}}\n")
        try:
            yield
        finally:
            self._run_nft("delete", "table", "inet", "pod")

    def count_packets(self) -> list[int]:
        """Return the packets that each counter of the policy has seen, in the order of its rules."""
        table = json.loads(self._run_nft("-j", "list", "table", "inet", "pod"))["nftables"]
        parts = [part for row in table if "rule" in row for part in row["rule"]["expr"]]
        return [part["counter"]["packets"] for part in parts if "counter" in part]

    def _run_nft(self, *words: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.peer, "nft", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, f"nft {' '.join(words)}: {done.stderr}"
        return done.stdout

    def redirect(self, source: str, target: str) -> None:
        """Send out of a link of the pod's namespace whatever comes in at another, as an operator would."""
        everything = ("protocol", "all", "u32", "match", "u32", "0", "0")
        action = ("action", "mirred", "egress", "redirect", "dev", target)
        for words in (
            ("qdisc", "add", "dev", source, "ingress"),
            ("filter", "add", "dev", source, "parent", "ffff:", *everything, *action),
        ):
            subprocess.run(["tc", "-n", self.pod, *words], check=True, capture_output=True, timeout=10)

    def list_links(self) -> set[str]:
        """Return the names of the links in the pod's namespace."""
        return {row["ifname"] for row in read_ip("-n", self.pod, "link")}

    def list_ingress(self) -> set[str]:
        """Return the links of the pod's namespace that have an ingress queue."""
        shown = subprocess.run(
            ["tc", "-n", self.pod, "qdisc"], check=True, capture_output=True, text=True, timeout=10
        ).stdout
        return {line.split()[4] for line in shown.splitlines() if line.startswith("qdisc ingress")}


@contextlib.contextmanager
def make_pod_network(token: str, *, linked: bool = True) -> Iterator[PodNet]:
    """Have a pod's network during the block. IPv4 10.5.0.0/24, IPv6 fd05::/64, and 192.0.2.9 behind the peer.

    Not `linked`, the pod has its loopback only until `PodNet.connect`.
    """
    if shutil.which("ip") is None or shutil.which("tc") is None:
        pytest.skip("NO iproute2: no pod's network can be made; run tools/install-host-packages test")
    net = PodNet(f"{token}-pod", f"{token}-peer")
    try:
        for name in (net.pod, net.peer):
            run_ip("netns", "add", name)
            run_ip("-n", name, "link", "set", "lo", "up")
        if linked:
            net.connect()
        yield net
    finally:
        for name in (net.pod, net.peer):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=10)


def add_veth(net: PodNet, name: str, v4: str, v6: str) -> None:
    """Add a veth between the two, with addresses in these networks."""
    peer = f"v{secrets.token_hex(4)}"
    run_ip(
        *("link", "add", name, "netns", net.pod, "mtu", str(MTU), "type", "veth"),
        *("peer", "name", peer, "netns", net.peer, "mtu", str(MTU)),
    )
    for place, link, last in ((net.pod, name, "2"), (net.peer, peer, "1")):
        run_ip("-n", place, "link", "set", link, "up")
        run_ip("-n", place, "addr", "add", f"{v4}.{last}/24", "dev", link)
        run_ip("-n", place, "-6", "addr", "add", f"{v6}:{last}/64", "dev", link, "nodad")
