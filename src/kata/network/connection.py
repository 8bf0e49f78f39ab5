"""A pod's namespace connected to a VM: one tap for each link of the pod."""

import os
from errno import EAFNOSUPPORT, ENODEV, EOPNOTSUPP
from typing import NamedTuple

from kata.network.scan import Endpoint, PodLayout, scan_namespace
from kata.network.tap import name_tap, open_tap
from kata.network.tcfilter import NOT_CONNECTED, connect_links, disconnect_links
from kata.protocol.netlink.counters import Counters, get_counters, parse_counters
from kata.protocol.netlink.link import change_link, get_link, parse_link, withhold_ipv6_address
from kata.protocol.netlink.traffic import delete_ingress
from kata.transport.netlink import Netlink, open_netlink

_NO_IPV6 = {EAFNOSUPPORT, EOPNOTSUPP}
_NOT_THERE = {ENODEV}


class Plug(NamedTuple):
    """An endpoint with the descriptors of its tap, one a queue, for a VMM to take."""

    endpoint: Endpoint
    taps: tuple[int, ...]


class PodConnection:
    """Connects the links of the calling thread's namespace, which it keeps to wherever it is called from later.

    Each tap has this many `queues`. Not `redirects`, the taps are made and set up, and what connects them to the links
    is somebody else's.
    `close` closes descriptors. What is in the kernel goes by itself with the VMM (taps), or by `disconnect`.
    """

    def __init__(self, sandbox: str, *, queues: int = 1, redirects: bool = True) -> None:
        self.layout = PodLayout((), (), ())
        self._sandbox = sandbox
        self._queues = queues
        self._redirects = redirects
        self._netlink: Netlink = open_netlink()
        self._plugs: list[Plug] = []
        self._connected: list[int] = []

    def connect(self) -> list[Plug]:
        """Scan the namespace and make a tap for every endpoint that has none yet; return those.

        Raise HostError, or StateError for one that is taken. What was made until a failure goes with `close` and
        `disconnect_namespace`, or with `withdraw`.
        """
        self.layout = scan_namespace(self._netlink)
        made = []
        for endpoint in self.layout.endpoints:
            if endpoint.link.ifindex not in self._connected:
                made.append(self._connect_endpoint(endpoint))
                self._plugs.append(made[-1])
                self._connected.append(endpoint.link.ifindex)
        return made

    def hand_over(self, plug: Plug) -> None:
        """Let go of a tap that the VMM has taken."""
        self._plugs.remove(plug)
        _close_plug(plug)

    def withdraw(self) -> None:
        """Undo the connections whose taps no VMM has taken, so that `connect` makes them again."""
        for plug in self._plugs:
            if self._redirects:
                self._netlink.run(delete_ingress(plug.endpoint.link.ifindex), unless=NOT_CONNECTED)
            self._connected.remove(plug.endpoint.link.ifindex)
        self.close_taps()

    def _connect_endpoint(self, endpoint: Endpoint) -> Plug:
        name = name_tap(len(self._connected))
        plug = Plug(endpoint, open_tap(name, self._queues))
        try:
            tap = self._netlink.ask(get_link(name=name), parse_link)[0].ifindex
            self._netlink.run(withhold_ipv6_address(tap), unless=_NO_IPV6)
            self._netlink.run(change_link(tap, mtu=endpoint.link.mtu, up=True))
            if self._redirects:
                connect_links(self._netlink, endpoint.link, tap, self._sandbox)
        except BaseException:
            _close_plug(plug)
            raise
        return plug

    def close_taps(self) -> None:
        """Let go of the taps: the VMM holds them now, or nobody shall."""
        while self._plugs:
            _close_plug(self._plugs.pop())

    def read_counters(self) -> list[Counters]:
        """Return what each endpoint received and sent, from the pod's point of view."""
        return [
            counters
            for endpoint in self.layout.endpoints
            for counters in self._netlink.ask(get_counters(endpoint.link.ifindex), parse_counters, unless=_NOT_THERE)
        ]

    def close(self) -> None:
        self.close_taps()
        self._netlink.close()


def _close_plug(plug: Plug) -> None:
    for descriptor in plug.taps:
        os.close(descriptor)


def disconnect_namespace(sandbox: str) -> None:
    """Take off the links of the calling thread's namespace what connects them to a sandbox's VM. May be repeated."""
    with open_netlink() as netlink:
        disconnect_links(netlink, sandbox)
