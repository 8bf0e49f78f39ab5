"""Limits for what a pod receives and sends: token buckets where packets leave a link.

What a VM receives leaves by its tap, and what it sends by the pod's own link, so neither needs a queue of its own kind.
"""

from errno import EEXIST, EINVAL, ENODEV, ENOENT
from typing import Final, NamedTuple

from kata.errors import HostError, StateError
from kata.protocol.netlink.link import Link
from kata.protocol.netlink.traffic import delete_limit, limit_egress
from kata.transport.netlink import Netlink

_NOT_LIMITED = {EINVAL, ENOENT, ENODEV}
_BITS = 8
# Short enough that a second's average is the rate, long enough for timers and for packets that the guest leaves whole.
_BURSTS_A_SECOND: Final = 100
_LEAST_BURST: Final = 16 << 10
_HEADER: Final = 18
# A twentieth of a second of packets may wait.
_BACKLOGS_A_SECOND: Final = 20
_LARGEST: Final = (1 << 32) - 1


class Limits(NamedTuple):
    """Bits a second that each card of a pod may receive and send. 0 is no limit."""

    receive: int = 0
    send: int = 0


def limit_sending(netlink: Netlink, link: Link, bits: int) -> None:
    """Limit what a link sends to so many bits a second; 0 leaves it as it is.

    Raise StateError where somebody else has given the link a queue, and HostError.
    """
    if not bits:
        return
    rate = max(1, bits // _BITS)
    burst = min(_LARGEST, max(rate // _BURSTS_A_SECOND, _LEAST_BURST, link.mtu + _HEADER))
    backlog = min(_LARGEST, max(rate // _BACKLOGS_A_SECOND, 2 * burst))
    try:
        is_new = netlink.run(limit_egress(link.ifindex, rate, burst, backlog), unless={EEXIST})
    except HostError as error:
        error.hint = error.hint or "load the kernel module sch_tbf"
        raise
    if not is_new:
        raise StateError(
            f"network interface {link.name} cannot be limited: it has a queueing discipline of somebody else's",
            hint="let one limit the pod: the network plug-in, or rx_rate_limiter_max_rate and tx_rate_limiter_max_rate",
        )


def lift_limit(netlink: Netlink, ifindex: int) -> None:
    """Take the limit off a link that may have one. Those of others stay."""
    netlink.run(delete_limit(ifindex), unless=_NOT_LIMITED)
