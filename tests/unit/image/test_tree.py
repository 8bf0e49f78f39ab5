"""The file tree of an image before it has a file system."""

import io
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import NotFoundError, UsageError
from kata.image.rootfs.tree import (
    Tree,
    make_console,
    make_directory,
    make_file,
    make_link,
    unpack_archive,
    write_to_disk,
)

_segments = st.text("abcxyz", min_size=1, max_size=3)
_paths = st.lists(_segments, min_size=1, max_size=4).map("/".join)


@given(st.lists(_paths, max_size=10))
def test_parents_come_before_their_children(paths: list[str]) -> None:
    tree = Tree()
    for path in paths:
        tree.add(path, make_directory())

    listed = list(tree)

    assert all(path.rpartition("/")[0] in {"", *listed[:index]} for index, path in enumerate(listed))


@pytest.mark.parametrize("path", ["", "/etc", "../etc", "etc/../..", "etc//passwd", "."])
def test_a_path_that_could_leave_the_root_is_refused(path: str) -> None:
    with pytest.raises(UsageError):
        Tree().add(path, make_file(b""))


def test_links_are_followed_in_directories_and_from_the_root() -> None:
    tree = Tree()
    tree.add("lib", make_link("usr/lib"))
    tree.add("usr/lib/real/libc.so", make_file(b"c"))
    tree.add("usr/lib/libc.so.6", make_link("/lib/real/libc.so"))
    tree.add("usr/bin/up", make_link("../lib/libc.so.6"))

    assert tree.resolve("usr/bin/up") == "usr/lib/real/libc.so"
    assert tree.read("lib/libc.so.6") == b"c"


def test_a_link_to_itself_is_not_followed_for_ever() -> None:
    tree = Tree()
    tree.add("loop", make_link("loop"))

    with pytest.raises(NotFoundError, match="itself"):
        tree.resolve("loop")


def test_a_link_to_nothing_is_named() -> None:
    tree = Tree()
    tree.add("dangling", make_link("nowhere"))

    with pytest.raises(NotFoundError, match="/dangling"):
        tree.read("dangling")


def test_a_package_lands_in_a_merged_usr() -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("./lib/x.so")
        member.size, member.mode = 1, 0o755
        archive.addfile(member, io.BytesIO(b"x"))
        hard = tarfile.TarInfo("./bin/y")
        hard.type, hard.linkname = tarfile.LNKTYPE, "./lib/x.so"
        archive.addfile(hard)
    tree = Tree()

    unpack_archive(tree, packed.getvalue())

    assert tree.read("usr/lib/x.so") == tree.read("usr/bin/y") == b"x"
    assert stat.S_IMODE(tree["usr/lib/x.so"].mode) == 0o755


def test_what_is_written_to_disk_has_the_modes_of_the_tree(tmp_path: Path) -> None:
    tree = Tree()
    tree.add("tmp", make_directory(0o1777))
    tree.add("usr/bin/tool", make_file(b"#!", 0o755))
    tree.add("usr/bin/alias", make_link("tool"))
    tree.add("dev/console", make_console())

    write_to_disk(tree, tmp_path)

    assert stat.S_IMODE((tmp_path / "tmp").stat().st_mode) == 0o1777
    assert stat.S_IMODE((tmp_path / "usr/bin/tool").stat().st_mode) == 0o755
    assert (tmp_path / "usr/bin/alias").readlink() == Path("tool")
    assert not (tmp_path / "dev/console").exists()
