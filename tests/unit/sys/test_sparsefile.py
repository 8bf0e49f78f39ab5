"""Copies of sparse files and their checksums."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from kata.sys.sparsefile import copy_blocks, list_blocks, restore_blocks, sum_blocks

_SIZE = 1 << 20
_WRITES = st.lists(st.tuples(st.integers(0, _SIZE - 5000), st.binary(min_size=1, max_size=5000)), max_size=8)


def fill(path: Path, writes: list[tuple[int, bytes]]) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.ftruncate(descriptor, _SIZE + 100)
    for place, data in writes:
        os.pwrite(descriptor, data, place)
    return descriptor


@given(_WRITES, _WRITES)
def test_a_copy_holds_the_same_and_so_does_what_was_put_back(
    writes: list[tuple[int, bytes]], others: list[tuple[int, bytes]]
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = [fill(folder / "one", writes), fill(folder / "other", others)]
        files.append(os.open(folder / "copy", os.O_RDWR | os.O_CREAT))
        one, other, copy = files
        try:
            copy_blocks(one, copy)
            restore_blocks(one, other)
            whole = (folder / "one").read_bytes()
            assert (folder / "copy").read_bytes() == whole
            assert (folder / "other").read_bytes() == whole
            assert len({sum_blocks(one), sum_blocks(other), sum_blocks(copy)}) == 1
        finally:
            for descriptor in files:
                os.close(descriptor)


def test_a_checksum_tells_content_and_place_and_not_holes(tmp_path: Path) -> None:
    files = [
        fill(tmp_path / "one", [(70000, b"x")]),
        fill(tmp_path / "filled", [(0, bytes(65536 * 3)), (70000, b"x")]),
        fill(tmp_path / "moved", [(140000, b"x")]),
        fill(tmp_path / "other", [(70000, b"y")]),
    ]
    try:
        one, filled, moved, other = map(sum_blocks, files)
        assert one == filled
        assert len({one, moved, other}) == 3
        assert [place for place, _ in list_blocks(files[1])] == [65536]
    finally:
        for descriptor in files:
            os.close(descriptor)
