"""A sandbox's network: the daemon goes to live in the pod's namespace, the VM gets its links, the guest its addresses.

The whole daemon moves, so that the VMM, should a guest break out into it, finds the pod's network and no other, and so
that engines that look for the container's network by the pid of the shim find it.
"""

import asyncio
import os
from typing import Any, NamedTuple

from kata.hypervisor.driver import Vm
from kata.hypervisor.spec import NetDevice
from kata.network.connection import Plug, PodConnection
from kata.network.guestview import describe_interface, describe_neighbours, describe_routes
from kata.network.namespace import enter_namespace, open_own_namespace
from kata.protocol.messages import agent as wire
from kata.protocol.netlink.notation import format_mac
from kata.sandbox.guest import Guest
from kata.sandbox.ledger import Kind, record_resource
from kata.sys.file import read_text

_RESOLV_CONF = "/etc/resolv.conf"
_LONGEST_RESOLV_CONF = 64 << 10


class PodNamespace(NamedTuple):
    """A pod's network namespace: an open descriptor, and its path, "" for one that has no name."""

    descriptor: int
    path: str = ""


class SandboxNetwork:
    """The network of one sandbox. Without a namespace the guest has its loopback and nothing else.

    `home` is a descriptor of the host's namespace for what has to be run there, None where the daemon never left it.
    `awaits_links` says that the namespace had none when the VM was described: an engine may make them until `start`.
    """

    def __init__(self, sandbox: str, directory: str) -> None:
        self.home: int | None = None
        self._sandbox = sandbox
        self._directory = directory
        self._connection: PodConnection | None = None
        self._following = asyncio.Lock()
        self._is_settled = True
        self.awaits_links = False

    def join(self, namespace: PodNamespace, model: str, queues: int) -> list[NetDevice]:
        """Move this process into the namespace and make a network card of each link in it.

        `model` is that of the configuration: with `none` the taps of the cards are connected to nothing. A card has
        this many pairs of `queues`.
        The descriptor is closed. Raise HostError, or StateError where another VM is connected there. The cards lend
        their descriptors until `close_taps`.
        """
        self.home = open_own_namespace()
        try:
            enter_namespace(namespace.descriptor)
            if namespace.path:
                inode = os.fstat(namespace.descriptor).st_ino
                record_resource(self._directory, Kind.NETWORK, f"{inode} {self._sandbox} {namespace.path}")
        finally:
            os.close(namespace.descriptor)
        self._connection = PodConnection(self._sandbox, queues=queues, redirects=model == "tcfilter")
        cards = [_describe_card(plug) for plug in self._connection.connect()]
        self.awaits_links = not cards
        return cards

    def close_taps(self) -> None:
        """Let go of what the cards lent."""
        if self._connection is not None:
            self._connection.close_taps()

    async def configure(self, guest: Guest) -> None:
        """Give the guest's network cards the names, addresses, routes and static neighbours of the pod's links."""
        if self._connection is None or not self._connection.layout.endpoints:
            return
        layout = self._connection.layout
        for endpoint in layout.endpoints:
            await guest.update_interface(describe_interface(endpoint))
        await guest.update_routes(describe_routes(layout))
        if layout.neighbours:
            await guest.add_neighbours(describe_neighbours(layout))

    async def follow(self, machine: Vm, guest: Guest) -> None:
        """Give the running VM the links that came into the namespace after it was started.

        Docker and nerdctl make a container's links between `create` and `start`. What failed may be tried again.
        Raise HostError, GuestError, DeadlineError, or StateError for a link too many.
        """
        if self._connection is None or not self.awaits_links:
            return
        async with self._following:
            connection = self._connection
            try:
                for plug in connection.connect():
                    await machine.plug_net(_describe_card(plug))
                    connection.hand_over(plug)
                    self._is_settled = False
                    # Before the next card comes: a name that the kernel gave to one may be meant for another.
                    await guest.update_interface(describe_interface(plug.endpoint))
            finally:
                connection.withdraw()
            if not self._is_settled:
                await self.configure(guest)
                self._is_settled = True

    def read_statistics(self) -> list[wire.NetworkStats]:
        """Return what the pod received and sent by each of its links, as the host counted it."""
        counted = [] if self._connection is None else self._connection.read_counters()
        return [wire.NetworkStats(**counters._asdict()) for counters in counted]

    def close(self) -> None:
        """Close every descriptor. What is in the kernel is released by the ledger."""
        if self._connection is not None:
            self._connection.close()
        if self.home is not None:
            os.close(self.home)
            self.home = None


def _describe_card(plug: Plug) -> NetDevice:
    link = plug.endpoint.link
    return NetDevice(f"net{link.ifindex}", format_mac(link.address), plug.taps, mtu=link.mtu)


def read_name_servers(spec: dict[str, Any]) -> list[str]:
    """Return the lines of the resolv.conf that the engine made for a container, none where it made none."""
    for mount in spec.get("mounts") or []:
        if mount.get("destination") == _RESOLV_CONF and os.path.isfile(str(mount.get("source"))):
            return read_text(mount["source"])[:_LONGEST_RESOLV_CONF].splitlines()
    return []
