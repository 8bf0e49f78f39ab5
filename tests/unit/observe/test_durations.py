"""Durations become the cumulative buckets of a histogram."""

from hypothesis import given
from hypothesis import strategies as st

from kata.observe.durations import BOUNDS_MS, Durations
from kata.sandbox.metrics import make_histogram, name_action


@given(st.lists(st.floats(min_value=0, max_value=10), min_size=1, max_size=30))
def test_each_bucket_counts_the_calls_that_took_no_longer(seconds: list[float]) -> None:
    durations = Durations()
    for each in seconds:
        durations.note("Create", each)

    family = make_histogram("kata_t", durations)

    values = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
    for bound in BOUNDS_MS:
        assert values["kata_t_bucket", str(bound)] == sum(each * 1000 <= bound for each in seconds)
    assert values["kata_t_bucket", "+Inf"] == values["kata_t_count", None] == len(seconds)


def test_an_action_has_the_name_that_upstream_gives_it() -> None:
    assert [name_action(name) for name in ("Create", "CloseIO", "ResizePty")] == ["create", "close_io", "resize_pty"]
