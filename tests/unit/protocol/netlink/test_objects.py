import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import ProtocolError, UsageError
from kata.protocol.netlink.address import Address, encode_address, parse_address
from kata.protocol.netlink.link import Link, change_link, encode_link, parse_link
from kata.protocol.netlink.neighbour import Neighbour, encode_neighbour, parse_neighbour
from kata.protocol.netlink.notation import find_family
from kata.protocol.netlink.route import Hop, Route, add_route, delete_route, encode_route, parse_route
from kata.protocol.netlink.rule import Rule, encode_rule, parse_rule

u8 = st.integers(0, 0xFF)
u32 = st.integers(0, 0xFFFFFFFF)
indexes = st.integers(0, 0x7FFFFFFF)
ips = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=15)
links = st.builds(
    Link,
    ifindex=indexes,
    name=names,
    flags=u32,
    mtu=u32,
    address=st.binary(max_size=32),
    kind=names,
    lower=u32,
    master=u32,
    device_type=st.integers(0, 0xFFFF),
)
neighbours = st.builds(
    Neighbour, indexes, ips, address=st.binary(max_size=32), state=st.integers(0, 0xFFFF), flags=u8, kind=u8
)


@st.composite
def addresses(draw: st.DrawFn) -> Address:
    local = draw(ips)
    same = st.binary(min_size=len(local), max_size=len(local))
    return Address(
        ifindex=draw(u32),
        local=local,
        prefix=draw(st.integers(0, len(local) * 8)),
        peer=draw(st.one_of(st.just(b""), same.filter(lambda peer: peer != local))),
        broadcast=draw(st.one_of(st.just(b""), same)),
        flags=draw(u32),
        scope=draw(u8),
        label=draw(names),
    )


hops = st.builds(Hop, indexes, st.one_of(st.just(b""), ips), u8, st.integers(1, 256))


@st.composite
def routes(draw: st.DrawFn) -> Route:
    size = draw(st.sampled_from([4, 16]))
    address = st.one_of(st.just(b""), st.binary(min_size=size, max_size=size))
    return Route(
        family=find_family(bytes(size)),
        destination=draw(address),
        prefix=draw(st.integers(0, size * 8)),
        gateway=draw(st.one_of(st.just(b""), ips)),
        source=draw(address),
        ifindex=draw(u32),
        priority=draw(u32),
        mtu=draw(u32),
        scope=draw(u8),
        flags=draw(u32),
        table=draw(st.integers(1, 0xFFFFFFFF)),
        protocol=draw(u8),
        kind=draw(u8),
        tos=draw(u8),
        origin=draw(address),
        origin_prefix=draw(st.integers(0, size * 8)),
        hops=tuple(draw(st.lists(hops, max_size=3))),
    )


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """A rule as the kernel may list it: 6 is its priority, 18 padding, 21 who made it."""
    kinds = st.integers(1, 40).filter(lambda kind: kind not in {6, 18, 21})
    attributes = draw(st.dictionaries(kinds, st.binary(max_size=16))) | {6: draw(st.binary(min_size=4, max_size=4))}
    header = draw(st.binary(min_size=8, max_size=8)) + draw(st.sampled_from([0, 2])).to_bytes(4, sys.byteorder)
    return Rule(header, tuple(sorted(attributes.items())), draw(u8))


@given(links)
def test_a_link_survives_a_round_trip(link: Link) -> None:
    assert parse_link(encode_link(link)) == link


@given(addresses())
def test_an_address_survives_a_round_trip(address: Address) -> None:
    assert parse_address(encode_address(address)) == address


@given(routes())
def test_a_route_survives_a_round_trip(route: Route) -> None:
    assert parse_route(encode_route(route)) == route


@given(neighbours)
def test_a_neighbour_survives_a_round_trip(neighbour: Neighbour) -> None:
    assert parse_neighbour(encode_neighbour(neighbour)) == neighbour


@given(rules())
def test_a_rule_survives_a_round_trip(rule: Rule) -> None:
    assert parse_rule(encode_rule(rule)) == rule


@pytest.mark.parametrize("parse", [parse_link, parse_address, parse_route, parse_neighbour, parse_rule])
@given(payload=st.binary(max_size=64))
def test_any_payload_is_parsed_or_refused(parse: Callable[[bytes], Any], payload: bytes) -> None:
    try:
        parse(payload)
    except ProtocolError:
        return


def test_a_change_names_only_the_flags_that_it_sets() -> None:
    request = change_link(3, up=False, arp=False)

    assert request.payload[8:16] == b"\x80\0\0\0" + b"\x81\0\0\0"
    assert request.purpose == "set link 3 down arp off"


@pytest.mark.parametrize("name", ["sixteen-letters-", "a\0b", "ü" * 8])
def test_a_name_that_the_kernel_would_cut_is_refused_before_it_is_sent(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a network interface"):
        change_link(1, name=name)


@given(routes())
def test_a_request_leaves_out_the_flags_that_only_the_kernel_sets(route: Route) -> None:
    for request in (add_route(route), delete_route(route)):
        assert parse_route(request.payload).flags & ~0x6 == 0
