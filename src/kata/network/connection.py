"""A pod's namespace connected to a VM: one tap for each link of the pod."""

import os
from errno import EAFNOSUPPORT, ENODEV, EOPNOTSUPP
from itertools import count
from typing import NamedTuple

from kata.network.limit import Limits, lift_limit, limit_sending
from kata.network.macvtap import connect_macvtap, release_macvtap
from kata.network.scan import Endpoint, PodLayout, scan_namespace
from kata.network.tap import LARGEST_MTU, drop_tap, is_tap_name, name_tap, open_tap
from kata.network.tcfilter import connect_links, disconnect_link
from kata.protocol.netlink.counters import Counters, get_counters, parse_counters
from kata.protocol.netlink.link import Link, change_link, dump_links, get_link, parse_link, withhold_ipv6_address
from kata.transport.netlink import Netlink, open_netlink

_NO_IPV6 = {EAFNOSUPPORT, EOPNOTSUPP}
_NOT_THERE = {ENODEV}
_UNLIMITED = Limits()


class Plug(NamedTuple):
    """An endpoint with the descriptors of its tap, one a queue, for a VMM to take."""

    endpoint: Endpoint
    taps: tuple[int, ...]


class _Connected(NamedTuple):
    """A link that has a tap: the tap's number, and the link as it was before."""

    number: int
    link: Link


class PodConnection:
    """Connects the links of the calling thread's namespace, which it keeps to wherever it is called from later.

    `model` is `tcfilter`, `macvtap`, or `none`: the taps are made and set up, and what connects them to the links is
    somebody else's. Each tap has this many `queues`.
    `layout` is what the last `scan` found. `close` closes descriptors. What is in the kernel goes by itself with the
    VMM (taps), or by `disconnect_namespace`.
    """

    def __init__(self, sandbox: str, model: str = "tcfilter", *, queues: int = 1, limits: Limits = _UNLIMITED) -> None:
        self.layout = PodLayout()
        self._sandbox = sandbox
        self.queues = queues
        self._model = model
        self._limits = limits
        self._netlink: Netlink = open_netlink()
        self._plugs: list[Plug] = []
        self._connected: dict[int, _Connected] = {}
        self._kept = PodLayout()

    def scan(self) -> bool:
        """Look at the namespace again, and say whether it is another than before. Raise HostError."""
        before = self.layout
        layout = scan_namespace(self._netlink, self._connected).join(self._kept)
        self.layout = layout._replace(endpoints=tuple(map(self._restore_address, layout.endpoints)))
        return self.layout != before

    def _restore_address(self, endpoint: Endpoint) -> Endpoint:
        connected = self._connected.get(endpoint.link.ifindex)
        if connected is None or self._model != "macvtap":
            return endpoint
        # The link has lent its address.
        return endpoint._replace(link=endpoint.link._replace(address=connected.link.address))

    def keep(self, ifindex: int) -> None:
        """Remember what the layout has of a link that the VM gets as a device, and which goes from the namespace."""
        self._kept = self._kept.join(self.layout.select(ifindex))

    def _is_kept(self, ifindex: int) -> bool:
        return any(endpoint.link.ifindex == ifindex for endpoint in self._kept.endpoints)

    def connect(self) -> list[Plug]:
        """Make a tap for every endpoint of the layout that has none yet and needs one; return those.

        The others follow their links. Raise HostError, or StateError for one that is taken. What was made until a
        failure goes with `close` and `disconnect_namespace`, or with `withdraw`.
        """
        made = []
        for endpoint in self.layout.endpoints:
            connected = self._connected.get(endpoint.link.ifindex)
            if connected is not None:
                self._follow_link(endpoint.link, connected)
            elif not self._is_kept(endpoint.link.ifindex):
                number = next(free for free in count() if free not in {row.number for row in self._connected.values()})
                made.append(self._connect_endpoint(endpoint, number))
                self._plugs.append(made[-1])
                self._connected[endpoint.link.ifindex] = _Connected(number, endpoint.link)
        return made

    def _follow_link(self, link: Link, connected: _Connected) -> None:
        """Have the tap take packets as large as the link does."""
        if link.mtu == connected.link.mtu:
            return
        name = name_tap(connected.number)
        tap = self._find_tap(name)
        self._netlink.run(change_link(tap.ifindex, mtu=self._choose_mtu(link)))
        self._connected[link.ifindex] = connected._replace(link=connected.link._replace(mtu=link.mtu))
        # A bucket that is smaller than a packet never lets it through.
        for limited in (tap, link):
            lift_limit(self._netlink, limited.ifindex)
        self._limit(link, name)

    def _limit(self, link: Link, name: str) -> None:
        if self._model != "macvtap" and self._limits.receive:
            limit_sending(self._netlink, self._find_tap(name)._replace(mtu=link.mtu), self._limits.receive)
        if self._model != "none":
            limit_sending(self._netlink, link, self._limits.send)

    def _find_tap(self, name: str) -> Link:
        return self._netlink.ask(get_link(name=name), parse_link)[0]

    @property
    def connected(self) -> PodLayout:
        """What of the layout the VM has."""
        kept = {endpoint.link.ifindex for endpoint in self._kept.endpoints}
        return self.layout.restrict(kept | self._connected.keys())

    def list_gone(self) -> list[int]:
        """Return the indexes of links that are connected, and not in the layout any more."""
        return sorted(self._connected.keys() - {endpoint.link.ifindex for endpoint in self.layout.endpoints})

    def forget(self, ifindex: int) -> None:
        """Have done with a link that has gone; its tap goes with the card that the VMM has on it."""
        del self._connected[ifindex]

    def hand_over(self, plug: Plug) -> None:
        """Let go of a tap that the VMM has taken."""
        self._plugs.remove(plug)
        _close_plug(plug)

    def withdraw(self) -> None:
        """Undo the connections whose taps no VMM has taken, so that `connect` makes them again."""
        for plug in self._plugs:
            ifindex = plug.endpoint.link.ifindex
            del self._connected[ifindex]
            _disconnect_link(self._netlink, ifindex, self._sandbox)
        self.close_taps()

    def _connect_endpoint(self, endpoint: Endpoint, number: int) -> Plug:
        name = name_tap(number)
        link = endpoint.link
        taps: tuple[int, ...] = ()
        try:
            if self._model == "macvtap":
                taps = connect_macvtap(self._netlink, link, name, self.queues, self._sandbox)
            else:
                taps = open_tap(name, self.queues)
                self._set_up_tap(name, link)
            self._limit(link, name)
        except BaseException:
            for descriptor in taps:
                os.close(descriptor)
            _disconnect_link(self._netlink, link.ifindex, self._sandbox)
            raise
        return Plug(endpoint, taps)

    def _set_up_tap(self, name: str, link: Link) -> None:
        tap = self._find_tap(name)
        self._netlink.run(withhold_ipv6_address(tap.ifindex), unless=_NO_IPV6)
        self._netlink.run(change_link(tap.ifindex, mtu=self._choose_mtu(link), up=True))
        if self._model == "tcfilter":
            connect_links(self._netlink, link, tap.ifindex, self._sandbox)

    def _choose_mtu(self, link: Link) -> int:
        """Return the MTU of a link's tap: a guest may not go beyond that which Cloud Hypervisor found its tap with.

        Of a tap to which packets are redirected nothing else asks for it.
        """
        return LARGEST_MTU if self._model == "tcfilter" else min(link.mtu, LARGEST_MTU)

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
        for link in netlink.ask(dump_links(), parse_link):
            if _disconnect_link(netlink, link.ifindex, sandbox) and is_tap_name(link.name):
                drop_tap(link.name)  # one that was kept for a VMM to open does not go by itself


def _disconnect_link(netlink: Netlink, ifindex: int, sandbox: str) -> bool:
    """Return False where nothing of the sandbox's was there."""
    if disconnect_link(netlink, ifindex, sandbox) or release_macvtap(netlink, ifindex, sandbox):
        lift_limit(netlink, ifindex)
        return True
    return False
