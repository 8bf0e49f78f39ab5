"""CopyFile on a real directory: what it makes, and that nothing leads out of the share."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.agent.files import copy_file, rewrite_file
from kata.errors import HostError, KataError, UsageError
from kata.protocol.messages.agent import CopyFileRequest
from kata.protocol.messages.files import RewriteRequest

UID, GID = os.getuid(), os.getgid()


@pytest.fixture
def share(tmp_path: Path) -> Path:
    return make_share(tmp_path)


def make_share(parent: Path) -> Path:
    """A share beside a file that must not change."""
    (parent / "share").mkdir()
    (parent / "secret").write_text("secret")
    return parent / "share"


def copy(share: Path, name: str, data: bytes = b"", kind: int = stat.S_IFREG, **more: Any) -> None:
    values = {"file_size": len(data), "file_mode": kind | 0o640, "dir_mode": 0o755, "uid": UID, "gid": GID, **more}
    copy_file(str(share), CopyFileRequest(path=f"{share}/{name}", data=data, **values))


def test_a_file_appears_whole_with_its_mode_and_its_directories(share: Path) -> None:
    copy(share, "a/b/file", b"data")

    assert (share / "a/b/file").read_bytes() == b"data"
    assert stat.S_IMODE((share / "a/b/file").stat().st_mode) == 0o640


def test_pieces_are_put_together_before_the_file_appears(share: Path) -> None:
    copy(share, "file", b"12", file_size=5)
    copy(share, "file", b"34", file_size=5, offset=2)
    assert not (share / "file").exists()
    copy(share, "file", b"5", file_size=5, offset=4)

    assert (share / "file").read_bytes() == b"12345"
    assert [entry.name for entry in share.iterdir()] == ["file"]


def test_an_older_file_stays_until_the_new_one_is_whole(share: Path) -> None:
    copy(share, "file", b"old")
    copy(share, "file", b"ne", file_size=3)
    assert (share / "file").read_bytes() == b"old"
    copy(share, "file", b"w", file_size=3, offset=2)

    assert (share / "file").read_bytes() == b"new"


def test_a_directory_keeps_what_is_in_it(share: Path) -> None:
    copy(share, "d/file", b"x")
    copy(share, "d", kind=stat.S_IFDIR)

    assert (share / "d/file").read_bytes() == b"x"
    assert stat.S_IMODE((share / "d").stat().st_mode) == 0o640


def test_a_link_replaces_what_was_there(share: Path) -> None:
    copy(share, "link", b"x")
    copy(share, "link", b"..2024/target", kind=stat.S_IFLNK)

    assert str((share / "link").readlink()) == "..2024/target"


def test_a_file_takes_the_place_of_a_directory_and_of_a_link(share: Path) -> None:
    copy(share, "x/y", b"1")
    copy(share, "x", b"2")
    copy(share, "l", b"../secret", kind=stat.S_IFLNK)
    copy(share, "l", b"3")

    assert (share / "x").read_bytes() == b"2"
    assert (share / "l").read_bytes() == b"3"
    assert (share.parent / "secret").read_text() == "secret"


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "", ".", "a/..", ".."])
def test_a_path_that_leaves_the_share_is_refused(share: Path, name: str) -> None:
    with pytest.raises(UsageError):
        copy(share, name, b"x")
    assert (share.parent / "secret").read_text() == "secret"


def test_a_path_elsewhere_is_refused(share: Path) -> None:
    for path in ("/etc/passwd", f"{share}x/file", "relative"):
        with pytest.raises(UsageError):
            copy_file(str(share), CopyFileRequest(path=path, data=b"x", file_mode=stat.S_IFREG))


@pytest.mark.parametrize("target", ["..", "/", "../../../etc"])
def test_a_link_on_the_way_cannot_lead_out(share: Path, target: str) -> None:
    copy(share, "out", target.encode(), kind=stat.S_IFLNK)

    with pytest.raises(HostError):
        copy(share, "out/secret", b"x")
    assert (share.parent / "secret").read_text() == "secret"


def test_a_link_in_place_of_the_unfinished_file_is_not_followed(share: Path) -> None:
    (share / ".file.part").symlink_to(share.parent / "secret")

    with pytest.raises(HostError):
        copy(share, "file", b"xx", file_size=9, offset=1)
    copy(share, "file", b"new")
    assert (share.parent / "secret").read_text() == "secret"


def test_devices_are_refused(share: Path) -> None:
    with pytest.raises(UsageError, match="neither"):
        copy(share, "dev", kind=stat.S_IFCHR)


parts = st.sampled_from(["..", ".", "a", "b", "", "link", "..data"])
kinds = st.sampled_from([stat.S_IFREG, stat.S_IFDIR])
copies = st.lists(st.tuples(st.lists(parts, min_size=1, max_size=6).map("/".join), kinds), max_size=8)


@given(requests=copies)
def test_no_requests_whatever_change_anything_outside(requests: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        share = make_share(Path(directory))
        copy(share, "link", b"..", kind=stat.S_IFLNK)
        for path, kind in requests:
            with contextlib.suppress(KataError):
                copy(share, path, b"x", kind=kind)

        assert sorted(entry.name for entry in share.parent.iterdir()) == ["secret", "share"]
        assert (share.parent / "secret").read_text() == "secret"


def test_a_file_that_is_rewritten_stays_the_same_file(share: Path) -> None:
    copy(share, "a/file", b"longer")
    before = (share / "a/file").stat()
    rewrite_file(str(share), RewriteRequest(path=f"{share}/a/file", data=b"new"))
    after = (share / "a/file").stat()
    assert (share / "a/file").read_bytes() == b"new"
    assert (after.st_ino, after.st_mode, after.st_uid) == (before.st_ino, before.st_mode, before.st_uid)


def test_nothing_but_a_file_of_the_share_is_rewritten(share: Path) -> None:
    (share / "link").symlink_to("../secret")
    os.mkfifo(share / "fifo")
    for name in ("link", "fifo", "absent", "."):
        with pytest.raises(KataError):
            rewrite_file(str(share), RewriteRequest(path=f"{share}/{name}", data=b"new"))
    assert (share.parent / "secret").read_text() == "secret"
    assert not (share / "absent").exists()
