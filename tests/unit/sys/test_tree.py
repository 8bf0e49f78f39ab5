import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.sys.mount import bind, unmount
from kata.sys.tree import remove_tree
from privilege import needs_root


def test_a_tree_with_files_links_and_directories_is_removed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_text("x")
    (tree / "link").symlink_to(outside)
    os.mkfifo(tree / "fifo")
    remove_tree(str(tree))
    assert not tree.exists()
    assert (outside / "kept").exists()


def test_a_missing_tree_is_no_error(tmp_path: Path) -> None:
    remove_tree(str(tmp_path / "absent"))


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A tree with a bind of a directory of the same file system in it, which has the same device number."""
    data, tree = tmp_path / "data", tmp_path / "tree"
    for directory in (data, tree / "deep" / "volume", tree / "other"):
        directory.mkdir(parents=True)
    (data / "precious").write_text("x")
    (tree / "other" / "file").touch()
    bind(str(data), str(tree / "deep" / "volume"))
    yield data, tree
    unmount(str(tree / "deep" / "volume"), detach=True)


@needs_root
def test_what_is_bound_into_a_tree_from_the_same_file_system_is_not_removed(bound: tuple[Path, Path]) -> None:
    data, tree = bound
    with pytest.raises(OSError, match="not empty"):
        remove_tree(str(tree))
    assert (data / "precious").exists()
    assert not (tree / "other").exists()


@needs_root
def test_a_tree_that_is_a_mount_point_itself_is_left_alone(bound: tuple[Path, Path]) -> None:
    data, tree = bound
    with pytest.raises(OSError, match="mounted"):
        remove_tree(str(tree / "deep" / "volume"))
    assert (data / "precious").exists()
