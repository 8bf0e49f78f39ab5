"""A guest's memory as a file."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.hypervisor.memory import copy_memory, make_memory, write_memory
from kata.sys.sparsefile import list_data

_PAGE = 4096
_PAGES = 64


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = make_memory("test", _PAGES * _PAGE)
    yield descriptor
    os.close(descriptor)


def test_pages_of_zeros_are_left_out_and_the_size_is_kept(memory: int, tmp_path: Path) -> None:
    os.pwrite(memory, b"one", 3 * _PAGE + 17)
    os.pwrite(memory, bytes(5 * _PAGE), 4 * _PAGE)
    os.pwrite(memory, b"last", _PAGES * _PAGE - 4)
    with (tmp_path / "memory").open("wb+") as file:
        assert write_memory(memory, file.fileno()) == 2 * _PAGE
        assert file.read() == os.pread(memory, _PAGES * _PAGE, 0)
        assert os.fstat(file.fileno()).st_blocks * 512 < 4 * _PAGE


def test_what_was_written_is_copied_and_no_more_is_taken(memory: int) -> None:
    os.pwrite(memory, b"first", 0)
    os.pwrite(memory, b"x" * 3 * _PAGE, 10 * _PAGE)
    copy = make_memory("copy", _PAGES * _PAGE)
    try:
        assert copy_memory(memory, copy) == 4 * _PAGE
        assert list(list_data(copy)) == [(0, _PAGE), (10 * _PAGE, 13 * _PAGE)]
        assert os.pread(copy, _PAGES * _PAGE, 0) == os.pread(memory, _PAGES * _PAGE, 0)
    finally:
        os.close(copy)


@given(st.lists(st.tuples(st.integers(0, _PAGES - 1), st.binary(min_size=1, max_size=_PAGE)), max_size=20))
def test_a_memory_that_is_saved_and_copied_is_the_same(writes: list[tuple[int, bytes]]) -> None:
    descriptors = [make_memory("any", _PAGES * _PAGE) for _ in range(3)]
    memory, saved, copy = descriptors
    try:
        for page, data in writes:
            os.pwrite(memory, data, page * _PAGE)
        write_memory(memory, saved)
        copy_memory(saved, copy)
        assert os.pread(copy, _PAGES * _PAGE, 0) == os.pread(memory, _PAGES * _PAGE, 0)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_copy_of_a_file_without_holes_has_them_again(memory: int, tmp_path: Path) -> None:
    content = bytearray(_PAGES * _PAGE)
    content[20 * _PAGE : 20 * _PAGE + 5] = b"alone"
    (tmp_path / "dense").write_bytes(content)
    with (tmp_path / "dense").open("rb") as file:
        assert copy_memory(file.fileno(), memory) == 1 << 16
    assert os.pread(memory, len(content), 0) == content
    assert os.fstat(memory).st_blocks * 512 == 1 << 16
