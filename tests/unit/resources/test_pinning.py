import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import UsageError
from kata.resources.pinning import parse_cpus, pin_threads


@pytest.fixture
def thread() -> Iterator[int]:
    """The id of a thread that does nothing."""
    leave = threading.Event()
    idle = threading.Thread(target=leave.wait, args=(60,))
    idle.start()
    assert idle.native_id
    yield idle.native_id
    leave.set()
    idle.join()


@pytest.mark.parametrize(("text", "cpus"), [("", set()), ("3", {3}), ("0-2,7", {0, 1, 2, 7}), ("1, 2\n", {1, 2})])
def test_a_list_names_single_processors_and_ranges(text: str, cpus: set[int]) -> None:
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize("text", ["x", "1-", "-1", "1,,2", "0-99999999", "9" * 5000, "\u0661"])
def test_what_is_no_list_of_processors_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="0-2,7"):
        parse_cpus(text)


@given(st.text(alphabet="0123456789-, "))
def test_any_text_is_a_list_or_a_sentence(text: str) -> None:
    try:
        assert all(cpu >= 0 for cpu in parse_cpus(text))
    except UsageError as error:
        assert "list of processors" in error.message  # noqa: PT017 - either outcome is right


def test_a_thread_is_pinned_where_there_are_as_many_processors_and_let_go_where_not(thread: int) -> None:
    allowed = os.sched_getaffinity(0)
    one = min(allowed)

    assert pin_threads({0: thread}, {one})
    assert os.sched_getaffinity(thread) == {one}
    assert not pin_threads({0: thread}, set())
    assert os.sched_getaffinity(thread) == allowed


def test_a_thread_that_has_ended_needs_no_processor(thread: int) -> None:
    assert pin_threads({0: (1 << 22) + 1}, {min(os.sched_getaffinity(0))})
    assert os.sched_getaffinity(thread) == os.sched_getaffinity(0)
