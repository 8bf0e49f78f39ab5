"""IP and link-layer addresses as people write them, and as packed bytes.

`inet_pton` and not the `ipaddress` module: it is strict enough, and its import is a hundred times cheaper.
"""

from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from kata.errors import ProtocolError, UsageError

_FAMILY = {4: int(AF_INET), 16: int(AF_INET6)}
_WIDTH = {int(AF_INET): 32, int(AF_INET6): 128}


def find_family(address: bytes) -> int:
    """Return AF_INET for 4 bytes and AF_INET6 for 16; another length is a ProtocolError."""
    try:
        return _FAMILY[len(address)]
    except KeyError:
        raise ProtocolError(f"an IP address has 4 or 16 bytes, this one {len(address)}") from None


def find_width(family: int) -> int:
    """Return the bits of an address of the family (AF_INET or AF_INET6); another family is a ProtocolError."""
    try:
        return _WIDTH[family]
    except KeyError:
        raise ProtocolError(f"address family {family} is neither IPv4 nor IPv6") from None


def parse_ip(text: str) -> bytes:
    """Return the 4 or 16 bytes of an IPv4 or IPv6 address without prefix and zone. UsageError if it is neither."""
    try:
        return inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError) as error:
        raise UsageError(f"{text!r} is not an IP address", hint="write 192.0.2.1 or 2001:db8::1") from error


def format_ip(address: bytes) -> str:
    """Return the canonical text of a packed address, RFC 5952 for IPv6."""
    return inet_ntop(find_family(address), address)


def parse_network(text: str) -> tuple[bytes, int]:
    """Return address and prefix length of "address/length". Without a length it is the whole address."""
    address, slash, length = text.partition("/")
    packed = parse_ip(address)
    if not slash:
        return packed, len(packed) * 8
    return packed, parse_prefix(length, packed)


def parse_prefix(text: str, address: bytes) -> int:
    """Return the prefix length in `text`, a decimal number of bits that `address` can have."""
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= len(address) * 8):
        raise UsageError(
            f"{text!r} is not a prefix length for {format_ip(address)}", hint=f"use 0 to {len(address) * 8}"
        )
    return int(text)


def mask_network(address: bytes, prefix: int) -> bytes:
    """Return the address with the bits after the prefix cleared."""
    host = len(address) * 8 - prefix
    return (int.from_bytes(address, "big") >> host << host).to_bytes(len(address), "big")


def fill_network(address: bytes, prefix: int) -> bytes:
    """Return the address with the bits after the prefix set: the broadcast address of an IPv4 network."""
    host = len(address) * 8 - prefix
    return (int.from_bytes(address, "big") | (1 << host) - 1).to_bytes(len(address), "big")


def parse_mac(text: str) -> bytes:
    """Return the 6 bytes of "02:00:5e:10:00:01", hexadecimal of either case. UsageError if it is something else."""
    parts = text.split(":")
    try:
        if len(parts) == 6 and all(len(part) == 2 for part in parts):
            return bytes.fromhex("".join(parts))
    except ValueError:
        pass
    raise UsageError(f"{text!r} is not a MAC address", hint="write six hexadecimal pairs: 02:00:5e:10:00:01")


def format_mac(address: bytes) -> str:
    """Return a link-layer address of any length in lower-case hexadecimal pairs with colons, "" for none."""
    return address.hex(":") if address else ""
