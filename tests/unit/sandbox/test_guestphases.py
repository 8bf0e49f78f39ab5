"""The guest's spans on the host's clock, whatever the guest says."""

from hypothesis import given
from hypothesis import strategies as st

from kata.observe.timeline import Phase
from kata.protocol.messages.inspect import ListSpansResponse, Span
from kata.sandbox.guestphases import place_spans

_MS = 1_000_000
numbers = st.integers(0, (1 << 64) - 1)
spans = st.builds(Span, name=st.text(), start=numbers, length=numbers, failed=st.booleans())


def test_a_span_is_placed_as_long_before_the_answer_as_the_guest_counts() -> None:
    answer = ListSpansResponse(now=900 * _MS, spans=[Span(name="crun create", start=400 * _MS, length=300 * _MS)])

    assert place_spans(answer, 2000.0) == [Phase("crun create", 1500.0, 300.0, failed=False, in_guest=True)]


def test_what_began_before_the_sandbox_is_cut_and_what_ended_before_it_is_left_out() -> None:
    kernel = Span(name="kernel", start=0, length=1000 * _MS)
    earlier = Span(name="imports", start=0, length=100 * _MS)

    placed = place_spans(ListSpansResponse(now=2000 * _MS, spans=[kernel, earlier]), 1500.0)

    assert placed == [Phase("kernel", 0.0, 500.0, failed=False, in_guest=True)]


@given(numbers, st.lists(spans, max_size=5), st.floats(0, 1e9))
def test_every_phase_lies_within_the_timeline_and_has_a_name_that_can_be_printed(
    now: int, told: list[Span], now_ms: float
) -> None:
    for phase in place_spans(ListSpansResponse(now=now, spans=told), now_ms):
        assert phase.start_ms >= 0
        assert phase.ms >= 0
        assert phase.start_ms + phase.ms <= now_ms + 1.1
        assert phase.name.isprintable()
        assert len(phase.name) <= 64
