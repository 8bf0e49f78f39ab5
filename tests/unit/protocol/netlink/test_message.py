import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import ProtocolError
from kata.protocol.netlink.attribute import encode_text
from kata.protocol.netlink.message import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REPLACE,
    Exchange,
    Message,
    Request,
    encode_message,
    parse_messages,
)

CAPPED = 0x100
ACK_TLVS = 0x200
ERROR = 2
DONE = 3

u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
messages = st.builds(Message, u16, u16, u32, u32, st.binary(max_size=40))

CHANGE = Request(24, NLM_F_CREATE | NLM_F_REPLACE, b"body", "add a route")
DUMP = Request(26, NLM_F_DUMP, b"body", "list routes")


def encode_verdict(kind: int, number: int, *, flags: int = 0, rest: bytes = b"", sequence: int = 7) -> bytes:
    return encode_message(Message(kind, flags, sequence, 0, struct.pack("=i", -number) + rest))


@given(st.lists(messages, max_size=5))
def test_messages_survive_sharing_a_datagram(sent: list[Message]) -> None:
    assert parse_messages(b"".join(map(encode_message, sent))) == sent


@given(st.binary(max_size=80))
def test_any_datagram_is_parsed_or_refused(datagram: bytes) -> None:
    exchange = Exchange(DUMP, 7)
    try:
        exchange.feed(datagram)
    except ProtocolError:
        return
    assert sum(map(len, exchange.answers)) <= len(datagram)


@given(st.integers(0, 4095), st.integers(0, 0xFFFF), st.binary(max_size=40))
def test_any_verdict_is_understood_or_refused(number: int, flags: int, rest: bytes) -> None:
    exchange = Exchange(CHANGE, 7)
    try:
        assert exchange.feed(encode_verdict(ERROR, number, flags=flags, rest=rest))
    except ProtocolError:
        return
    assert exchange.error == number


def test_a_change_asks_for_an_acknowledgement_and_ends_with_it() -> None:
    exchange = Exchange(CHANGE, 7)

    (sent,) = parse_messages(exchange.datagram)
    assert sent.flags & 0x5 == 0x5
    assert exchange.feed(encode_verdict(ERROR, 0))
    assert exchange.error == 0


def test_a_dump_goes_on_until_the_kernel_says_done() -> None:
    exchange = Exchange(DUMP, 7)

    assert not exchange.feed(
        encode_message(Message(24, 2, 7, 0, b"one!")) + encode_message(Message(24, 2, 7, 0, b"two!"))
    )
    assert not exchange.feed(encode_message(Message(24, 2, 7, 0, b"tres")))
    assert exchange.feed(encode_verdict(DONE, 0))
    assert exchange.answers == [b"one!", b"two!", b"tres"]
    assert not exchange.interrupted


def test_a_dump_whose_objects_changed_is_marked() -> None:
    exchange = Exchange(DUMP, 7)

    assert exchange.feed(encode_verdict(DONE, 0, flags=NLM_F_DUMP_INTR))
    assert exchange.interrupted


def test_a_late_answer_to_an_earlier_request_is_passed_over() -> None:
    exchange = Exchange(CHANGE, 7)

    assert not exchange.feed(encode_verdict(ERROR, errno.EPERM, sequence=6))
    assert exchange.feed(encode_verdict(ERROR, 0))
    assert exchange.error == 0


@pytest.mark.parametrize(
    ("kind", "flags", "echo"),
    [
        (ERROR, CAPPED | ACK_TLVS, struct.pack("=IHHII", 20, 24, 5, 7, 0)),
        (ERROR, ACK_TLVS, struct.pack("=IHHII", 20, 24, 5, 7, 0) + b"body"),
        (DONE, ACK_TLVS, b""),
    ],
)
def test_the_kernels_sentence_is_found_behind_whatever_it_echoes(kind: int, flags: int, echo: bytes) -> None:
    exchange = Exchange(CHANGE, 7)

    assert exchange.feed(encode_verdict(kind, errno.EINVAL, flags=flags, rest=echo + encode_text(1, "Invalid gateway")))
    assert exchange.error == errno.EINVAL
    assert exchange.explanation == "Invalid gateway"


def test_lost_data_breaks_the_conversation() -> None:
    with pytest.raises(ProtocolError, match="lost netlink data"):
        Exchange(DUMP, 7).feed(encode_message(Message(4, 0, 7, 0, b"")))


def test_a_message_longer_than_its_datagram_is_refused() -> None:
    with pytest.raises(ProtocolError, match="says 32 bytes, 16 are left"):
        parse_messages(struct.pack("=IHHII", 32, 24, 0, 7, 0))
