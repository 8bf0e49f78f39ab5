"""A sandbox's network: the daemon goes to live in the pod's namespace, the VM gets its links, the guest its addresses.

The whole daemon moves, so that the VMM, should a guest break out into it, finds the pod's network and no other, and so
that engines that look for the container's network by the pid of the shim find it.
"""

import asyncio
import os
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple

from kata.config.model import Configuration
from kata.errors import KataError
from kata.hypervisor.driver import Vm
from kata.hypervisor.spec import NetDevice, PciAddress, VfioDevice
from kata.network.connection import Plug, PodConnection
from kata.network.guestview import describe_interface, describe_neighbours, describe_policy, describe_routes
from kata.network.limit import Limits
from kata.network.namespace import claim_namespace, enter_namespace, open_own_namespace
from kata.network.watch import NamespaceWatch
from kata.observe.log import Log
from kata.protocol.messages import agent as wire
from kata.protocol.messages import types
from kata.protocol.netlink.link import Link
from kata.protocol.netlink.notation import format_mac
from kata.sandbox.guest import Guest
from kata.sandbox.ledger import Kind, record_resource
from kata.sandbox.nameserver import NameRelay
from kata.sandbox.plan import may_pass_devices

_RETRY_PAUSE = 10.0


class _Told(NamedTuple):
    """What the guest has been told."""

    interfaces: list[types.Interface]
    routes: list[types.Route]
    neighbours: list[types.ARPNeighbor]
    policy: types.Policy | None = None


_NOTHING_TOLD = _Told([], [], [])


class PodNamespace(NamedTuple):
    """A pod's network namespace: an open descriptor, and its path, "" for one that has no name."""

    descriptor: int
    path: str = ""


class SandboxNetwork:
    """The network of one sandbox. Without a namespace the guest has its loopback and nothing else.

    `home` is a descriptor of the host's namespace for what has to be run there, None where the daemon never left it.
    """

    def __init__(self, sandbox: str, directory: str, log: Log) -> None:
        self.home: int | None = None
        self.passed: list[VfioDevice] = []
        """Links that are hardware of the host, which the VM gets as devices."""
        self._log = log
        self._names = NameRelay(log)
        self._sandbox = sandbox
        self._directory = directory
        self._connection: PodConnection | None = None
        self._watch: NamespaceWatch | None = None
        self._claim: socket.socket | None = None
        self._following = asyncio.Lock()
        self._told = _NOTHING_TOLD
        self._paths: dict[int, str] = {}
        self._passed_ids: dict[str, int] = {}
        self._is_up_to_date = False

    def join(self, namespace: PodNamespace, config: Configuration, vcpus: int) -> list[NetDevice]:
        """Move this process into the namespace and make a network card of each link in it.

        The VM has this many `vcpus`: a card has no more queues than that.
        The descriptor is closed. Raise HostError, or StateError where another VM is connected there. The cards lend
        their descriptors until `close_taps`.
        """
        self.home = open_own_namespace()
        try:
            enter_namespace(namespace.descriptor)
            self._claim = claim_namespace(namespace.path)
            inode = os.fstat(namespace.descriptor).st_ino
            if namespace.path:
                record_resource(self._directory, Kind.NETWORK, f"{inode} {self._sandbox} {namespace.path}")
        finally:
            os.close(namespace.descriptor)
        self._watch = NamespaceWatch()
        vm = config.hypervisor
        self._connection = PodConnection(
            self._sandbox,
            config.runtime.internetworking_model,
            queues=max(1, min(vm.network_queues, vcpus)),
            limits=Limits(vm.rx_rate_limiter_max_rate, vm.tx_rate_limiter_max_rate),
        )
        self._connection.scan()
        if may_pass_devices(vm):
            self._take_cards(self._connection, (inode, namespace.path))
        return [_describe_card(plug) for plug in self._connection.connect()]

    def list_cards(self) -> list[tuple[str, str, str]]:
        """Return the id of each card of the VM, the name of its link, and its link-layer address."""
        links = [] if self._connection is None else self._list_plugged(self._connection)
        return [(_name_card(link.ifindex), link.name, format_mac(link.address)) for link in links]

    @property
    def queues(self) -> int:
        """How many queues each card has."""
        return 1 if self._connection is None else self._connection.queues

    def _list_plugged(self, connection: PodConnection) -> list[Link]:
        """Return the links that the VM has by taps."""
        passed = self._passed_ids.values()
        return [one.link for one in connection.connected.endpoints if one.link.ifindex not in passed]

    def _take_cards(self, connection: PodConnection, namespace: tuple[int, str]) -> None:
        """Take what is hardware of the host from its drivers, to be given to the VM. Raise HostError."""
        from kata.sandbox.passthrough import find_card, take_card  # noqa: PLC0415 - few pods have one

        for endpoint in connection.layout.endpoints:
            link = endpoint.link
            address = "" if link.kind else find_card(link.name)
            if address:
                connection.keep(link.ifindex)
                self.passed.append(take_card(self._directory, self._sandbox, link.name, address, namespace))
                self._passed_ids[self.passed[-1].id] = link.ifindex
        if self.passed:
            connection.scan()

    def locate(self, places: Iterable[tuple[str, PciAddress]]) -> None:
        """Hear where the guest finds its devices, by their ids."""
        self._paths = {self._passed_ids[name]: place.path for name, place in places if name in self._passed_ids}

    def close_taps(self) -> None:
        """Let go of what the cards lent."""
        if self._connection is not None:
            self._connection.close_taps()

    async def configure(self, guest: Guest, *, whole: bool = False) -> None:
        """Give the guest's network cards the names, addresses, routes, rules and static neighbours of the pod's links.

        What the guest has been told already is left out; `whole`, it may have been told something by another before.
        Raise GuestError, DeadlineError.
        """
        if self._connection is None:
            return
        layout = self._connection.connected
        before = self._told
        # Most pods have none, and their guests need not look. One that was told of any is told that there is none.
        has_policy = whole or layout.has_policy or before.policy is not None
        policy = describe_policy(layout) if has_policy else None
        interfaces = [
            describe_interface(endpoint, self._paths.get(endpoint.link.ifindex, "")) for endpoint in layout.endpoints
        ]
        told = _Told(interfaces, describe_routes(layout), describe_neighbours(layout), policy)
        if told == before:
            return
        self._told = _NOTHING_TOLD._replace(policy=policy)  # until all of it has been told
        for interface in told.interfaces:
            if interface not in before.interfaces:
                await guest.update_interface(interface)
        # With an address the guest's kernel takes away the routes by it.
        await guest.update_routes(told.routes, told.policy)
        if told.neighbours:
            await guest.add_neighbours(told.neighbours)
        self._told = told

    async def catch_up(self, machine: Vm, guest: Guest, spec: dict[str, Any]) -> None:
        """Before the container of this OCI `spec` runs: do what `follow` does, until that has succeeded once.

        The name servers of its resolv.conf are the guest's too then. Docker and nerdctl make a container's links
        between `create` and `start`, which must fail where they cannot be had. What comes later is `watch`'s.
        """
        if self._connection is None:
            return
        self._names.add(spec)
        if not self._is_up_to_date:
            await self.follow(machine, guest)
            self._is_up_to_date = True
        else:
            await self._names.follow(guest)

    async def watch(self, machine: Vm, guest: Guest) -> None:
        """Follow the namespace until cancelled. What fails is logged, and tried again."""
        assert self._watch is not None
        assert self._connection is not None
        said = ""
        has_changed = False
        while True:
            if not has_changed:
                await self._watch.wait_change(timeout=_RETRY_PAUSE if said else None)
            has_changed = False
            try:
                try:
                    await self.follow(machine, guest)
                finally:
                    # Taps that were made, or taken away for want of a port, are news too, and no others' doing.
                    self._watch.drain()
                    has_changed = self._connection.scan()
                said = ""
            except KataError as error:
                if str(error) != said:
                    said = str(error)
                    self._log.write("warning", f"the VM's network is not what the pod's is: {said}")

    async def follow(self, machine: Vm, guest: Guest) -> None:
        """Bring the running VM up to date with the links, addresses, routes and rules of the namespace.

        One that cannot be had keeps back no other. Raise HostError, GuestError, DeadlineError, or StateError for a link
        too many.
        """
        if self._connection is None:
            return
        async with self._following:
            connection = self._connection
            connection.scan()
            failures = []
            for ifindex in connection.list_gone():
                try:
                    await machine.unplug(_name_card(ifindex))
                    connection.forget(ifindex)
                except KataError as error:
                    failures.append(error)
            try:
                for plug in connection.connect():
                    await machine.plug_net(_describe_card(plug))
                    connection.hand_over(plug)
                    # Before the next card comes: a name that the kernel gave to one may be meant for another.
                    await guest.update_interface(describe_interface(plug.endpoint))
            except KataError as error:
                failures.append(error)
            finally:
                connection.withdraw()
            await self.configure(guest)
            await self._names.follow(guest)
            if failures:
                raise failures[0]

    def read_statistics(self) -> list[wire.NetworkStats]:
        """Return what the pod received and sent by each of its links, as the host counted it."""
        counted = [] if self._connection is None else self._connection.read_counters()
        return [wire.NetworkStats(**counters._asdict()) for counters in counted]

    def close(self) -> None:
        """Close every descriptor. What is in the kernel is released by the ledger."""
        self._names.close()
        if self._connection is not None:
            self._connection.close()
        if self._watch is not None:
            self._watch.close()
        if self._claim is not None:
            self._claim.close()
        if self.home is not None:
            os.close(self.home)
            self.home = None


def _name_card(ifindex: int) -> str:
    return f"net{ifindex}"


def _describe_card(plug: Plug) -> NetDevice:
    link = plug.endpoint.link
    return NetDevice(_name_card(link.ifindex), format_mac(link.address), plug.taps)
