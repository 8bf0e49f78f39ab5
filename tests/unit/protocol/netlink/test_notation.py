import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import ProtocolError, UsageError
from kata.protocol.netlink.notation import (
    fill_network,
    find_family,
    find_width,
    format_ip,
    format_mac,
    mask_network,
    parse_ip,
    parse_mac,
    parse_network,
)

ips = st.ip_addresses().map(lambda ip: ip.packed)


@given(ips)
def test_an_ip_address_survives_being_written_and_read(packed: bytes) -> None:
    assert parse_ip(format_ip(packed)) == packed


@given(st.binary(min_size=6, max_size=6))
def test_a_mac_address_survives_being_written_and_read_in_either_case(packed: bytes) -> None:
    assert parse_mac(format_mac(packed)) == packed
    assert parse_mac(format_mac(packed).upper()) == packed


@given(ips, st.data())
def test_a_network_is_cut_as_the_standard_library_cuts_it(packed: bytes, data: st.DataObject) -> None:
    prefix = data.draw(st.integers(0, len(packed) * 8))

    network = ipaddress.ip_network((packed, prefix), strict=False)

    assert parse_network(f"{format_ip(packed)}/{prefix}") == (packed, prefix)
    assert mask_network(packed, prefix) == network.network_address.packed
    assert fill_network(packed, prefix) == network.broadcast_address.packed


def test_an_address_without_a_prefix_is_a_whole_host() -> None:
    assert parse_network("192.0.2.1") == (b"\xc0\x00\x02\x01", 32)
    assert parse_network("::1")[1] == 128


@pytest.mark.parametrize(
    "text", ["", "1", "1.2.3", "1.2.3.4.5", "256.0.0.1", "1::2::3", "fe80::1%eth0", "a\0b", "1.2.3.4 "]
)
def test_what_is_no_ip_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="is not an IP address"):
        parse_ip(text)


@pytest.mark.parametrize(
    "text", ["10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "::/129", "10.0.0.0/ 8", "10.0.0.0/1000", "10.0.0.0/\u0663"]
)
def test_a_prefix_length_that_the_address_cannot_have_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a prefix length"):
        parse_network(text)


@pytest.mark.parametrize(
    "text", ["", "02:00:00:00:00", "02:00:00:00:00:0g", "020000000000", "2:0:0:0:0:0", "02:00:00:00:00:00:00"]
)
def test_what_is_no_mac_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a MAC address"):
        parse_mac(text)


def test_an_address_of_no_known_family_is_refused() -> None:
    with pytest.raises(ProtocolError, match="this one 5"):
        find_family(b"12345")
    with pytest.raises(ProtocolError, match="family 99"):
        find_width(99)
