"""Netlink attributes: a list of (length, type, payload), each aligned to four bytes.

    u16 length of this header and the payload, without padding
    u16 type; the two top bits say "nested" and "network byte order"
    payload, then zeros up to a multiple of four

Numbers are in host byte order. Source: <linux/netlink.h>, struct nlattr.
"""

import struct
import sys
from collections.abc import Iterable, Mapping

from kata.errors import ProtocolError, UsageError

_HEADER = struct.Struct("=HH")
_ORDER = sys.byteorder
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_LARGEST = 0xFFFF - _HEADER.size


def encode_attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded. A payload beyond 65531 bytes is a UsageError."""
    if len(payload) > _LARGEST:
        raise UsageError(f"netlink attribute {kind} has a payload of {len(payload)} bytes, limit {_LARGEST}")
    return _HEADER.pack(_HEADER.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def encode_number(kind: int, value: int) -> bytes:
    """Return an attribute that holds an unsigned 32-bit number in host byte order; a larger one is a UsageError."""
    if not 0 <= value <= 0xFFFFFFFF:
        raise UsageError(f"netlink attribute {kind} cannot hold {value}, which does not fit into 32 bits")
    return encode_attribute(kind, value.to_bytes(4, _ORDER))


def encode_text(kind: int, text: str) -> bytes:
    """Return an attribute that holds a NUL-terminated string. Names in the kernel are bytes, hence surrogateescape."""
    return encode_attribute(kind, text.encode("utf-8", "surrogateescape") + b"\0")


def nest_attributes(kind: int, attributes: Iterable[bytes]) -> bytes:
    """Return an attribute whose payload is a list of encoded attributes."""
    return encode_attribute(kind | _NESTED, b"".join(attributes))


def parse_payload(payload: bytes, size: int, what: str) -> dict[int, bytes]:
    """Return the attributes in the payload of a message about `what`, after a fixed part of `size` bytes.

    A payload that is shorter, or has malformed attributes, is a ProtocolError.
    """
    if len(payload) < size:
        raise ProtocolError(f"netlink {what} message of {len(payload)} bytes, at least {size} belong there")
    return parse_attributes(payload, size)


def parse_attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return type → payload of the attributes in data[offset:]. Of equal types the last wins, as in the kernel.

    A length that is too small or reaches past the end is a ProtocolError.
    """
    found: dict[int, bytes] = {}
    end = len(data)
    while end - offset >= _HEADER.size:
        length, kind = _HEADER.unpack_from(data, offset)
        if not _HEADER.size <= length <= end - offset:
            raise ProtocolError(f"netlink attribute {kind & _TYPE_MASK} says {length} bytes, {end - offset} are left")
        found[kind & _TYPE_MASK] = data[offset + _HEADER.size : offset + length]
        offset += length + -length % 4
    return found


def read_number(attributes: Mapping[int, bytes], kind: int) -> int:
    """Return an unsigned 32-bit attribute, 0 when it is absent; another size is a ProtocolError."""
    payload = attributes.get(kind)
    if payload is None:
        return 0
    if len(payload) != 4:
        raise ProtocolError(f"netlink attribute {kind} has {len(payload)} bytes where a 32-bit number belongs")
    return int.from_bytes(payload, _ORDER)


def read_text(attributes: Mapping[int, bytes], kind: int) -> str:
    """Return a string attribute without its NUL, "" when it is absent."""
    return attributes.get(kind, b"").partition(b"\0")[0].decode("utf-8", "surrogateescape")
