"""JSON documents that have to be objects."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import ProtocolError, UsageError
from kata.protocol.jsonobject import parse_object

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), _VALUES))
def test_an_object_is_read(document: dict[str, object]) -> None:
    assert parse_object(json.dumps(document), "it") == document
    assert parse_object(json.dumps(document).encode(), "it") == document


@pytest.mark.parametrize("text", ["", "{", '{"a": 1} x', b"\xff\xfe\xfd", '{"a":' * 100_000])
def test_what_is_not_json_is_refused_by_name(text: str | bytes) -> None:
    with pytest.raises(UsageError, match="the process is not JSON: "):
        parse_object(text, "the process")


@pytest.mark.parametrize("text", ["null", "[]", '"{}"', "1"])
def test_another_value_is_refused_by_the_error_that_is_wanted(text: str) -> None:
    with pytest.raises(ProtocolError, match="index is not a JSON object"):
        parse_object(text, "index", error=ProtocolError)
