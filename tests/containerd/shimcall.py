"""The Task service of a container's shim, called as containerd does, for what ctr has no word for."""

from pathlib import Path
from typing import TypeVar

from containerd.daemon import Containerd
from kata.protocol.messages import task
from kata.protocol.protobuf import Message
from kata.transport.ttrpc_blocking import connect_blocking

Reply = TypeVar("Reply", bound=Message)


def find_bundle(daemon: Containerd, container: str) -> Path:
    return daemon.place / "state/io.containerd.runtime.v2.task" / daemon.token / container


def call_shim(
    daemon: Containerd,
    container: str,
    method: str,
    request: Message,
    reply: type[Reply],
    *,
    version: int = 3,
    timeout: float = 60.0,
) -> Reply:
    """Call a method of one version of the service. Raise GuestError with the shim's status, or DeadlineError."""
    address = (find_bundle(daemon, container) / "address").read_text().removeprefix("unix://")
    client = connect_blocking(address, "the shim", timeout=10)
    try:
        return client.call(task.SERVICES[version - 2], method, request, reply, timeout=timeout)
    finally:
        client.close()
