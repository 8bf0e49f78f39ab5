"""Traffic control's messages, with the kernel and tc(8) as judges."""

import subprocess
from errno import EEXIST, EINVAL, ENOENT

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import ProtocolError
from kata.protocol.netlink.counters import get_counters, parse_counters
from kata.protocol.netlink.link import get_link, parse_link, withhold_ipv6_address
from kata.protocol.netlink.traffic import (
    COOKIE_SIZE,
    add_ingress,
    delete_ingress,
    delete_limit,
    dump_ingress,
    limit_egress,
    parse_cookie,
    redirect_ingress,
)
from kata.transport.netlink import Netlink, open_netlink
from netns import enter_network_namespace, read_ip, run_ip

_COOKIE = bytes(range(COOKIE_SIZE))
_NOT_THERE = {EINVAL, ENOENT}


def _make_pair(netlink: Netlink) -> tuple[int, int]:
    run_ip("link", "add", "one", "type", "veth", "peer", "name", "two")
    return tuple(netlink.ask(get_link(name=name), parse_link)[0].ifindex for name in ("one", "two"))  # type: ignore[return-value] # of two


def test_a_redirect_is_what_tc_shows_and_its_cookie_comes_back() -> None:
    with enter_network_namespace(), open_netlink() as netlink:
        one, two = _make_pair(netlink)
        assert netlink.run(add_ingress(one))
        netlink.run(redirect_ingress(one, two, _COOKIE))

        shown = subprocess.run(["tc", "filter", "show", "dev", "one", "ingress"], check=True, capture_output=True)
        assert b"protocol all pref 1 u32" in shown.stdout
        assert b"match 00000000/00000000 at 0" in shown.stdout
        assert b"mirred (Egress Redirect to device two) stolen" in shown.stdout
        assert _COOKIE in netlink.ask(dump_ingress(one), parse_cookie)


def test_an_ingress_queue_is_added_once_and_removed_with_its_filters() -> None:
    with enter_network_namespace(), open_netlink() as netlink:
        one, two = _make_pair(netlink)
        assert netlink.ask(dump_ingress(one), parse_cookie, unless=_NOT_THERE) == []
        assert netlink.run(add_ingress(one))
        assert not netlink.run(add_ingress(one), unless={EEXIST})
        netlink.run(redirect_ingress(one, two, _COOKIE))
        assert netlink.run(delete_ingress(one))
        assert not netlink.run(delete_ingress(one), unless=_NOT_THERE)
        assert netlink.ask(dump_ingress(one), parse_cookie, unless=_NOT_THERE) == []


@pytest.mark.parametrize(("rate", "shown"), [(125_000, "rate 1Mbit"), (5_000_000_000, "rate 40Gbit")])
def test_a_limit_is_what_tc_shows_and_goes_while_those_of_others_stay(rate: int, shown: str) -> None:
    with enter_network_namespace(), open_netlink() as netlink:
        one, two = _make_pair(netlink)
        assert not netlink.run(delete_limit(one), unless=_NOT_THERE)
        assert netlink.run(limit_egress(one, rate, 20_000, 50_000))
        said = subprocess.run(["tc", "qdisc", "show", "dev", "one"], check=True, capture_output=True, text=True).stdout
        assert said.startswith("qdisc tbf 6b61: root")
        assert f"{shown} burst " in said
        assert netlink.run(delete_limit(one))
        assert "tbf" not in subprocess.run(["tc", "qdisc"], check=True, capture_output=True, text=True).stdout

        subprocess.run(["tc", "qdisc", "add", "dev", "two", "root", "pfifo"], check=True)
        assert not netlink.run(limit_egress(two, rate, 20_000, 50_000), unless={EEXIST})
        assert not netlink.run(delete_limit(two), unless=_NOT_THERE)


def test_a_link_without_an_ipv6_address_of_its_own_gets_none_when_it_comes_up() -> None:
    with enter_network_namespace(), open_netlink() as netlink:
        one, _ = _make_pair(netlink)
        netlink.run(withhold_ipv6_address(one))
        run_ip("link", "set", "one", "up")
        run_ip("link", "set", "two", "up")

        assert read_ip("addr", "show", "dev", "one")[0]["addr_info"] == []
        assert read_ip("addr", "show", "dev", "two")[0]["addr_info"] != []


def test_counters_are_those_that_ip_shows() -> None:
    with enter_network_namespace(), open_netlink() as netlink:
        one, _ = _make_pair(netlink)
        for name in ("one", "two"):
            run_ip("link", "set", name, "up")
        netlink.run(withhold_ipv6_address(one))
        counters = netlink.ask(get_counters(one), parse_counters)[0]
        shown = read_ip("-s", "link", "show", "one")[0]["stats64"]

        assert counters.name == "one"
        assert counters.rx_packets <= shown["rx"]["packets"]
        assert counters.tx_bytes <= shown["tx"]["bytes"]


@given(st.binary(max_size=200))
def test_whatever_comes_as_a_filter_or_as_counters_is_read_or_refused(payload: bytes) -> None:
    for parse in (parse_cookie, parse_counters):
        try:
            parse(payload)
        except ProtocolError:
            continue


def test_a_link_without_counters_is_refused() -> None:
    with pytest.raises(ProtocolError, match="0 bytes of counters"):
        parse_counters(bytes(16))
