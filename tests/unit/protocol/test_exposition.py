"""Prometheus' text format, beside the parser of Prometheus' own client library."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from kata.errors import ProtocolError
from kata.protocol.exposition import (
    Family,
    Sample,
    encode_families,
    format_value,
    label_families,
    make_family,
    make_gauge,
    merge_families,
    parse_families,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)  # two underscores begin Prometheus' own labels
# A colon begins names of recording rules; a suffix makes a name part of somebody else's histogram.
FAMILY_NAMES = NAMES.map(lambda name: f"kata_{name}_x")
ROWS = st.lists(st.tuples(st.dictionaries(NAMES, TEXT, max_size=3), st.floats(allow_nan=False)), min_size=1, max_size=4)
FAMILIES = st.lists(
    st.builds(make_family, FAMILY_NAMES, TEXT, ROWS, st.sampled_from(["gauge", "untyped"])),
    max_size=4,
    unique_by=lambda family: family.name,
)


@given(FAMILIES)
def test_what_is_written_is_read_again(families: list[Family]) -> None:
    assert parse_families(encode_families(families)) == families


@given(FAMILIES)
def test_prometheus_own_parser_reads_the_same(families: list[Family]) -> None:
    # That parser strips a HELP's spaces and splits lines at more than a line feed: both are its own.
    plain = [family._replace(help="help") for family in families]

    read = list(text_string_to_metric_families(encode_families(plain)))

    assert [(metric.name, metric.documentation) for metric in read] == [(family.name, "help") for family in plain]
    for metric, family in zip(read, plain, strict=True):
        found = [(sample.name, sample.labels, sample.value) for sample in metric.samples]
        assert found == [(sample.name, sample.labels, sample.value) for sample in family.samples]


@given(st.floats())
def test_a_value_is_the_same_after_the_way_through_text(value: float) -> None:
    read = float(format_value(value))

    assert read == value or (math.isnan(read) and math.isnan(value))


@given(TEXT)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_families(text)
    except ProtocolError as error:
        assert "metric" in str(error)  # noqa: PT017 - most rubbish is refused, comments are not


def test_the_parts_of_a_histogram_stay_together() -> None:
    text = (
        '# TYPE kata_t histogram\nkata_t_bucket{le="1"} 1\nkata_t_bucket{le="+Inf"} 2\nkata_t_sum 3.5\nkata_t_count 2\n'
    )

    (family,) = parse_families(text)

    assert (family.name, family.kind, len(family.samples)) == ("kata_t", "histogram", 4)
    assert family.samples[0] == Sample("kata_t_bucket", {"le": "1"}, 1)


@pytest.mark.parametrize(
    "line",
    [
        'a{b="c} 1',
        'a{b="c"x="d"} 1',
        'a{b="\\t"} 1',
        "a 1 1395066363000",
        "a",
        "a one",
        "1a 1",
        "a  1",
        "# TYPE a tea",
        "a 1e",
    ],
)
def test_a_line_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(ProtocolError):
        parse_families(line + "\n")


def test_labels_that_are_added_win_over_those_that_claim_to_be_them() -> None:
    (family,) = label_families([make_family("a", "", [({"sandbox_id": "other"}, 1)])], {"sandbox_id": "own"})

    assert family.samples[0].labels == {"sandbox_id": "own"}


def test_families_of_one_name_become_one() -> None:
    merged = merge_families([make_gauge("a", "text", 1), make_gauge("b", "", 2), make_gauge("a", "other", 3)])

    assert [(family.name, len(family.samples)) for family in merged] == [("a", 2), ("b", 1)]


def test_a_family_without_samples_is_left_out() -> None:
    assert encode_families([make_family("a", "text", [])]) == ""
