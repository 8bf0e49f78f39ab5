"""A veth into a namespace of a container's own: the way of packets by `kata-runtime` and by runc alike.

The container is the sender and this process, in the host's namespace, the receiver; busybox is all there is in the
container, so a transfer is `nc` and the time of an exchange is that of `ping`.
"""

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.runtime import Runtime, create_container

_HOST, _POD = "10.250.0.1", "10.250.0.2"
_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class LinkTimes:
    """Seconds of a transfer of some bytes to the host, and of a packet there and back."""

    transfer: float
    exchange: float


@contextmanager
def make_namespace(name: str) -> Iterator[str]:
    """Have a network namespace with a veth to this one, yield its path, and remove both."""
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", name)
        _run("ip", "addr", "add", f"{_HOST}/24", "dev", name)
        _run("ip", "link", "set", name, "up")
        _run("ip", "-n", name, "addr", "add", f"{_POD}/24", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        yield f"/run/netns/{name}"
    finally:
        _run("ip", "netns", "delete", name)


def time_link(runtime: Runtime, bundle: Path, size: int, exchanges: int) -> LinkTimes:
    """Measure a container of `bundle`, whose namespace has to be that of `make_namespace`.

    Raise RuntimeError for a transfer or an answer that fell short.
    """
    with create_container(runtime, bundle) as container:
        runtime.call("start", container)
        return LinkTimes(_time_transfer(runtime, container, size), _time_exchange(runtime, container, exchanges))


def _time_transfer(runtime: Runtime, container: str, size: int) -> float:
    """Return the seconds from the connection to the last byte."""
    with socket.create_server((_HOST, 0)) as server:
        server.settimeout(_TIMEOUT)
        send = f"dd if=/dev/zero bs=1M count={size >> 20} status=none | nc {_HOST} {server.getsockname()[1]}"
        with subprocess.Popen(runtime.build_command("exec", container, "sh", "-c", send)) as sender:
            try:
                connection, _ = server.accept()
                began, received = time.monotonic(), 0
                with connection:
                    connection.settimeout(_TIMEOUT)
                    while received < size and (data := connection.recv(1 << 20)):
                        received += len(data)
                took = time.monotonic() - began
            except BaseException:
                sender.terminate()
                raise
    if received != size:
        raise RuntimeError(f"{runtime.name} sent {received} of {size} bytes")
    return took


def _time_exchange(runtime: Runtime, container: str, count: int) -> float:
    """Return the mean seconds of an echo: of all but the first, which asks for the neighbour's address."""
    command = runtime.build_command("exec", container, "ping", "-c", str(count + 1), "-i", "0.05", _HOST)
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT).stdout
    times = [float(text) / 1e3 for text in re.findall(r"time=([0-9.]+) ms", said)][1:]
    if not times:
        raise RuntimeError(f"{runtime.name} had no answer to ping: {said}")
    return sum(times) / len(times)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=_TIMEOUT)
