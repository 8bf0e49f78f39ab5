import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import ProtocolError, UsageError
from kata.protocol.netlink.attribute import (
    encode_attribute,
    encode_number,
    encode_text,
    nest_attributes,
    parse_attributes,
    read_number,
    read_text,
)

kinds = st.integers(0, 0x3FFF)
lists = st.dictionaries(kinds, st.binary(max_size=40))


@given(lists)
def test_attributes_survive_a_round_trip(attributes: dict[int, bytes]) -> None:
    wire = b"".join(encode_attribute(kind, payload) for kind, payload in attributes.items())

    assert len(wire) % 4 == 0
    assert parse_attributes(wire) == attributes


@given(kinds, lists)
def test_a_nest_holds_a_list_and_hides_its_flag(kind: int, attributes: dict[int, bytes]) -> None:
    wire = nest_attributes(kind, [encode_attribute(*item) for item in attributes.items()])

    assert parse_attributes(parse_attributes(wire)[kind]) == attributes


@given(st.integers(0, 0xFFFFFFFF), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_numbers_and_texts_survive_a_round_trip(number: int, text: str) -> None:
    attributes = parse_attributes(encode_number(1, number) + encode_text(2, text))

    assert read_number(attributes, 1) == number
    assert read_text(attributes, 2) == text


@given(st.binary(max_size=64))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        attributes = parse_attributes(data)
    except ProtocolError:
        return
    assert sum(map(len, attributes.values())) <= len(data)


def test_a_length_past_the_end_is_refused() -> None:
    with pytest.raises(ProtocolError, match="says 9 bytes, 8 are left"):
        parse_attributes(b"\x09\x00\x01\x00abcd")


def test_a_length_that_does_not_cover_its_header_cannot_loop_forever() -> None:
    with pytest.raises(ProtocolError, match="says 0 bytes"):
        parse_attributes(bytes(8))


def test_a_number_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(ProtocolError, match="has 2 bytes"):
        read_number({4: b"ab"}, 4)


def test_a_name_that_is_not_unicode_survives() -> None:
    assert read_text(parse_attributes(encode_text(3, read_text({3: b"\xff\xfe\0"}, 3))), 3) == "\udcff\udcfe"


def test_a_payload_that_no_length_field_can_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="limit 65531"):
        encode_attribute(1, bytes(65532))


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_a_number_that_does_not_fit_is_refused_before_it_is_sent(value: int) -> None:
    with pytest.raises(UsageError, match="does not fit into 32 bits"):
        encode_number(4, value)
