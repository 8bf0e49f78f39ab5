"""The initramfs archive, judged by a reader of its own and by the cpio program."""

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import UsageError
from kata.image.rootfs.cpio import encode_tree
from kata.image.rootfs.tree import Node, Tree, make_console, make_directory, make_file, make_link

_HEADER = 6 + 13 * 8
_segments = st.text("abcé", min_size=1, max_size=5)
_paths = st.lists(_segments, min_size=1, max_size=3).map("/".join)
_nodes = st.one_of(
    st.builds(make_file, st.binary(max_size=50), st.integers(0, 0o7777)),
    st.builds(make_directory, st.integers(0, 0o7777)),
    _paths.map(make_link),
    st.just(make_console()),
)


def _build_tree(entries: dict[str, Node]) -> Tree:
    tree = Tree()
    for path, node in entries.items():
        tree.add(path, node)
    return tree


def _read_archive(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Names to mode, content and device number, as the kernel would read them."""
    found: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    position = 0
    while True:
        assert data[position : position + 6] == b"070701"
        fields = [int(data[position + 6 + 8 * i : position + 14 + 8 * i], 16) for i in range(13)]
        name = data[position + _HEADER : position + _HEADER + fields[11] - 1].decode()
        start = position + _HEADER + fields[11]
        start += -start % 4
        if name == "TRAILER!!!":
            return found
        found[name] = (fields[1], data[start : start + fields[6]], (fields[9], fields[10]))
        assert fields[2:4] == [0, 0]
        assert fields[5] == 0
        position = start + fields[6]
        position += -position % 4


@given(st.dictionaries(_paths, _nodes, max_size=8))
def test_every_node_comes_back_with_its_mode_and_content(entries: dict[str, Node]) -> None:
    tree = _build_tree(entries)

    read = _read_archive(b"".join(encode_tree(tree)))

    assert read == {path: (tree[path].mode, tree[path].data, tree[path].device) for path in tree}


@given(st.dictionaries(_paths, _nodes, max_size=8))
def test_the_order_in_which_files_were_added_does_not_matter(entries: dict[str, Node]) -> None:
    # A parent that is named itself must keep its own mode, so only leaves are shuffled against each other.
    leaves = {path: node for path, node in entries.items() if not any(p.startswith(path + "/") for p in entries)}
    backwards = dict(reversed(leaves.items()))

    assert b"".join(encode_tree(_build_tree(leaves))) == b"".join(encode_tree(_build_tree(backwards)))


def test_a_name_longer_than_a_path_may_be_is_refused() -> None:
    with pytest.raises(UsageError, match="does not fit"):
        list(encode_tree(_build_tree({"a" * 4096: make_file(b"")})))


def test_the_cpio_program_unpacks_it(tmp_path: Path) -> None:
    if shutil.which("cpio") is None:
        pytest.skip("LOUD: the program cpio is not installed (apt-get install cpio)")
    tree = _build_tree({"usr/bin/run": make_file(b"#!/bin/sh\n", 0o755), "bin": make_link("usr/bin")})

    subprocess.run(
        ["cpio", "--extract", "--make-directories", "--quiet"],
        input=b"".join(encode_tree(tree)),
        cwd=tmp_path,
        check=True,
        timeout=30,
    )

    assert (tmp_path / "bin/run").read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE((tmp_path / "usr/bin/run").stat().st_mode) == 0o755
