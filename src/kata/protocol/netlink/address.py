"""IP addresses of links.

    u8 family  u8 prefix length  u8 flags (IFA_F_*, low byte)  u8 scope (RT_SCOPE_*)  u32 link index
    attributes IFA_*

Source: rtnetlink(7), <linux/if_addr.h>.
"""

import struct
from typing import NamedTuple

from kata.errors import ProtocolError
from kata.protocol.netlink.attribute import (
    encode_attribute,
    encode_number,
    encode_text,
    parse_payload,
    read_number,
    read_text,
)
from kata.protocol.netlink.message import NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Request
from kata.protocol.netlink.notation import find_family, format_ip

RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22

IFA_F_NODAD = 0x02

_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_IFA_LABEL = 3
_IFA_BROADCAST = 4
_IFA_FLAGS = 8

_HEADER = struct.Struct("=BBBBI")


class Address(NamedTuple):
    """An address of the link with this ifindex. `local` is 4 or 16 bytes, `prefix` the bits of its network.

    `peer` is the other end of a point-to-point link, b"" otherwise; `broadcast` b"" when there is none.
    """

    ifindex: int
    local: bytes
    prefix: int
    peer: bytes = b""
    broadcast: bytes = b""
    flags: int = 0
    scope: int = 0
    label: str = ""


def encode_address(address: Address) -> bytes:
    """Return an address as the kernel sends it."""
    family = find_family(address.local)
    parts = [
        _HEADER.pack(family, address.prefix, address.flags & 0xFF, address.scope, address.ifindex),
        # IFA_ADDRESS is the peer; where there is none the kernel wants it equal to IFA_LOCAL.
        encode_attribute(_IFA_LOCAL, address.local),
        encode_attribute(_IFA_ADDRESS, address.peer or address.local),
        encode_number(_IFA_FLAGS, address.flags),
    ]
    if address.broadcast:
        parts.append(encode_attribute(_IFA_BROADCAST, address.broadcast))
    if address.label:
        parts.append(encode_text(_IFA_LABEL, address.label))
    return b"".join(parts)


def parse_address(payload: bytes) -> Address:
    """Return the address in the payload of an RTM_NEWADDR message; a malformed one is a ProtocolError."""
    attributes = parse_payload(payload, _HEADER.size, "address")
    family, prefix, low_flags, scope, ifindex = _HEADER.unpack_from(payload)
    far = attributes.get(_IFA_ADDRESS, b"")
    # IPv6 sends IFA_LOCAL only on point-to-point links.
    local = attributes.get(_IFA_LOCAL, far)
    if find_family(local) != family:
        raise ProtocolError(f"netlink address message of family {family} holds an address of {len(local)} bytes")
    return Address(
        ifindex=ifindex,
        local=local,
        prefix=prefix,
        peer=far if far != local else b"",
        broadcast=attributes.get(_IFA_BROADCAST, b""),
        flags=read_number(attributes, _IFA_FLAGS) if _IFA_FLAGS in attributes else low_flags,
        scope=scope,
        label=read_text(attributes, _IFA_LABEL),
    )


def dump_addresses(*, ifindex: int = 0, family: int = 0) -> Request:
    """Ask for the addresses of one link or of all (ifindex 0), of one family or of both (0)."""
    of_what = f"list addresses of link {ifindex}" if ifindex else "list addresses"
    return Request(RTM_GETADDR, NLM_F_DUMP, _HEADER.pack(family, 0, 0, 0, ifindex), of_what)


def add_address(address: Address, *, replace: bool = False) -> Request:
    """Ask for a new address. If the link has it already: its flags are replaced, or the kernel says EEXIST."""
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    return Request(RTM_NEWADDR, flags, encode_address(address), f"add address {_format(address)}")


def delete_address(address: Address) -> Request:
    """Ask for the removal of an address, found by link, `local`, `prefix` and label."""
    return Request(RTM_DELADDR, 0, encode_address(address), f"delete address {_format(address)}")


def _format(address: Address) -> str:
    return f"{format_ip(address.local)}/{address.prefix} of link {address.ifindex}"
