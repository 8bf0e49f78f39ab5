"""The codec against Google's runtime, and against bytes that nobody should send."""

import contextlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kata.errors import ProtocolError, UsageError
from kata.protocol.messages.agent import CreateContainerRequest
from kata.protocol.protobuf import Field, Message
from unit.protocol.oracle import Everything, Leaf, build, find_messages, google_class, name_of, to_google

every_message = pytest.mark.parametrize("cls", find_messages(), ids=name_of)
quick = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
thorough = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


class Nest(Message):
    """A message that holds itself, which none on the real wires does."""


Nest.FIELDS = {1: Field(1, "message", type=Nest)}
Nest.FIELDS[1].name = "inner"
Nest.inner = None  # type: ignore[attr-defined]


def encode_nest(depth: int) -> bytes:
    wire = b""
    for _ in range(depth):
        size = len(wire)
        wire = b"\x0a" + (bytes((size,)) if size < 0x80 else bytes((size & 0x7F | 0x80, size >> 7))) + wire
    return wire


@every_message
@quick
@given(data=st.data())
def test_what_we_write_google_reads_as_the_same_message(cls: type[Message], data: st.DataObject) -> None:
    ours = data.draw(build(cls))

    theirs = google_class(cls).FromString(ours.encode())

    assert theirs == to_google(ours)


@every_message
@quick
@given(data=st.data())
def test_what_google_writes_we_read_as_the_same_message(cls: type[Message], data: st.DataObject) -> None:
    ours = data.draw(build(cls))

    assert cls.decode(to_google(ours).SerializeToString()) == ours


@thorough
@given(sent=build(Everything))
def test_every_kind_of_field_survives_the_round_trip_both_ways(sent: Everything) -> None:
    theirs = google_class(Everything).FromString(sent.encode())

    assert theirs == to_google(sent)
    assert Everything.decode(theirs.SerializeToString()) == sent
    assert Everything.decode(sent.encode()) == sent


@thorough
@given(first=build(Everything), second=build(Everything))
def test_two_messages_in_a_row_merge_as_google_merges_them(first: Everything, second: Everything) -> None:
    wire = first.encode() + second.encode()

    merged = Everything.decode(wire)

    assert to_google(merged) == google_class(Everything).FromString(wire)


@thorough
@given(sent=build(Leaf), newer=build(Everything))
def test_fields_of_a_newer_peer_are_skipped(sent: Leaf, newer: Everything) -> None:
    newer.text, newer.data = "", b""  # the two numbers that Leaf knows

    assert Leaf.decode(newer.encode() + sent.encode()) == sent


@thorough
@given(wire=st.binary(max_size=200))
def test_random_bytes_are_a_message_or_a_protocol_error(wire: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        Everything.decode(wire)


@thorough
@given(sent=build(Everything), cut=st.integers(0, 400))
def test_a_truncated_message_is_refused_where_google_refuses_it(sent: Everything, cut: int) -> None:
    wire = sent.encode()[:cut]
    try:
        expected = google_class(Everything).FromString(wire)
    except DecodeError:
        with pytest.raises(ProtocolError):
            Everything.decode(wire)
    else:
        assert to_google(Everything.decode(wire)) == expected


@given(values=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5))
def test_numbers_are_read_packed_and_unpacked(values: list[int]) -> None:
    packed = Everything(smalls=values).encode()
    unpacked = b"".join(b"\x58" + Everything(small=v).encode()[1:] if v else b"\x58\x00" for v in values)

    assert Everything.decode(packed).smalls == values
    assert Everything.decode(unpacked).smalls == values


def test_a_negative_int32_takes_ten_bytes_as_in_every_other_implementation() -> None:
    wire = Everything(small=-1).encode()

    assert wire == b"\x20" + b"\xff" * 9 + b"\x01"
    assert Everything.decode(wire).small == -1


def test_an_int32_of_five_bytes_is_read_as_negative_too() -> None:
    assert Everything.decode(b"\x20\xff\xff\xff\xff\x0f").small == -1


def test_an_optional_field_keeps_the_difference_between_absent_and_zero() -> None:
    assert Everything().encode() == b""
    zero = Everything(maybe_text="", maybe_flag=False, maybe_number=0)

    assert Everything.decode(zero.encode()) == zero
    assert Everything.decode(b"").maybe_text is None


def test_an_empty_nested_message_is_sent_because_its_presence_means_something() -> None:
    wire = Everything(leaf=Leaf()).encode()

    assert wire == b"\x42\x00"
    assert Everything.decode(wire).leaf == Leaf()


def test_a_map_entry_without_key_or_value_has_their_defaults() -> None:
    assert Everything.decode(b"\x7a\x00").by_name == {"": ""}
    assert Everything.decode(b"\x82\x7d\x00").leaf_by_name == {"": Leaf()}


def test_a_later_map_entry_replaces_an_earlier_one() -> None:
    wire = Everything(by_name={"k": "old"}).encode() + Everything(by_name={"k": "new"}).encode()

    assert Everything.decode(wire).by_name == {"k": "new"}


def test_messages_may_be_nested_deep_but_not_without_end() -> None:
    Nest.decode(encode_nest(64))

    with pytest.raises(ProtocolError, match="nested deeper than 64"):
        Nest.decode(encode_nest(66))


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        (b"\x0a\x05abc", "ends inside field 1"),
        (b"\x0a\x01\xff", "not UTF-8"),
        (b"\x20", "ends inside a varint"),
        (b"\x20" + b"\xff" * 10 + b"\x01", "longer than 10 bytes"),
        (b"\x0d\x00\x00", "ends inside field 1"),
        (b"\x0b", "wire type 3"),
        (b"\x0f", "wire type 7"),
        (b"\x00\x00", "field number 0"),
        (b"\x5a\x02\x80\x80", "ends inside a varint"),
    ],
)
def test_broken_bytes_are_refused_with_the_reason(wire: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        Everything.decode(wire)


def test_text_that_utf8_cannot_carry_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="text holds"):
        Everything(text="\ud800").encode()


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(TypeError, match="has no field containerid"):
        CreateContainerRequest(containerid="c")  # type: ignore[call-arg]  # the point of the test


def test_lists_of_two_messages_are_not_shared() -> None:
    one, other = Everything(), Everything()
    one.texts.append("x")

    assert other.texts == []
