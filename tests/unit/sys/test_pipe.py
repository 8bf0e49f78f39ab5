"""What is in a pipe, and what fits into it."""

import fcntl
import os
from collections.abc import Iterator

import pytest

from kata.sys.pipe import count_readable, enlarge_pipe


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_as_much_is_asked_for_as_is_there_and_no_more_than_the_limit(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, bytes(10000))

    assert count_readable(reader, 1 << 20) == 10000
    assert count_readable(reader, 100) == 100


def test_a_page_is_asked_for_where_nothing_is_there_or_nobody_tells(pipe: tuple[int, int]) -> None:
    with open("/dev/null", "rb") as file:
        assert count_readable(file.fileno(), 1 << 20) == 4096
    assert count_readable(pipe[0], 1 << 20) == 4096


def test_a_pipe_is_enlarged_never_made_smaller_and_a_file_is_left_alone(pipe: tuple[int, int]) -> None:
    enlarge_pipe(pipe[1], 1 << 17)
    enlarge_pipe(pipe[1], 1 << 12)

    assert fcntl.fcntl(pipe[0], fcntl.F_GETPIPE_SZ) == 1 << 17
    with open("/dev/null", "rb") as file:
        enlarge_pipe(file.fileno(), 1 << 17)
