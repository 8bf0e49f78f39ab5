"""What a link has counted since it was made.

Source: <linux/if_link.h>, struct rtnl_link_stats64.
"""

import struct
from typing import NamedTuple

from kata.errors import ProtocolError
from kata.protocol.netlink.attribute import parse_payload, read_text
from kata.protocol.netlink.link import LINK_HEADER_SIZE, RTM_GETLINK, Link, encode_link
from kata.protocol.netlink.message import Request

_IFLA_IFNAME = 3
_IFLA_STATS64 = 23
_FIELDS = struct.Struct("=8Q")


class Counters(NamedTuple):
    """Packets and bytes that a link received and sent, as seen from its own side."""

    name: str
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int


def get_counters(ifindex: int) -> Request:
    """Ask for a link with its counters. The kernel says ENODEV if there is none."""
    return Request(RTM_GETLINK, 0, encode_link(Link(ifindex, "")), f"read the counters of link {ifindex}")


def parse_counters(payload: bytes) -> Counters:
    """Return the counters in an RTM_NEWLINK message; one without them is a ProtocolError."""
    attributes = parse_payload(payload, LINK_HEADER_SIZE, "link")
    fields = attributes.get(_IFLA_STATS64, b"")
    if len(fields) < _FIELDS.size:
        raise ProtocolError(
            f"netlink link message holds {len(fields)} bytes of counters, at least {_FIELDS.size} belong there"
        )
    return Counters(read_text(attributes, _IFLA_IFNAME), *_FIELDS.unpack_from(fields))
