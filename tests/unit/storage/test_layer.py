"""Layers: whiteouts, metadata, and authors with bad intentions."""

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kata.errors import HostError, KataError, ProtocolError
from kata.storage.layer import split_name, unpack_layer
from unit.storage.image_layout import Entry, directory, file, hard_link, link, make_tar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices of a layer need root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "deep" / "root"
    root.mkdir(parents=True)
    return root


def unpack(root: Path, *entries: Entry) -> None:
    descriptor = os.open(root, os.O_PATH)
    try:
        unpack_layer(io.BytesIO(make_tar(entries)), descriptor)
    finally:
        os.close(descriptor)


def list_tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_files_get_content_owner_mode_and_time(root: Path) -> None:
    unpack(
        root,
        directory("./bin", mode=0o750, uid=5, gid=6, mtime=1000),
        file("./bin/su", b"content", mode=0o4755, uid=7, gid=8, mtime=2000),
        link("bin/link", "su", uid=9, gid=9),
    )
    status = (root / "bin/su").stat()
    assert (root / "bin/su").read_bytes() == b"content"
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime) == (0o4755, 7, 8, 2000)
    status = (root / "bin").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime) == (0o750, 5, 6, 1000)
    assert os.readlink(root / "bin/link") == "su"
    assert (root / "bin/link").lstat().st_uid == 9


def test_hard_links_nodes_and_fifos_are_made(root: Path) -> None:
    unpack(
        root,
        file("a", b"x"),
        hard_link("dir/b", "a"),
        ("null", tarfile.CHRTYPE, {"devmajor": 1, "devminor": 3, "mode": 0o666}),
        ("pipe", tarfile.FIFOTYPE, {"mode": 0o600}),
    )
    assert (root / "a").stat().st_ino == (root / "dir/b").stat().st_ino
    assert (root / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO((root / "pipe").stat().st_mode)


def test_extended_attributes_are_kept(root: Path) -> None:
    unpack(root, file("f", pax_headers={"SCHILY.xattr.user.note": "kept"}))
    assert os.getxattr(root / "f", "user.note") == b"kept"


def test_a_whiteout_removes_what_a_lower_layer_has(root: Path) -> None:
    unpack(root, file("keep"), file("gone"), file("dir/inner"))
    unpack(root, file(".wh.gone"), file(".wh.dir"), file(".wh.never-there"))
    assert list_tree(root) == ["keep"]


def test_an_opaque_directory_loses_what_lower_layers_had_wherever_the_mark_stands(root: Path) -> None:
    unpack(root, file("d/old"), file("d/sub/old"), file("other"))
    unpack(root, file("d/new"), file("d/sub/new"), file("d/.wh..wh..opq"))
    assert list_tree(root) == ["d", "d/new", "d/sub", "d/sub/new", "other"]


def test_a_later_layer_replaces_files_directories_and_links(root: Path) -> None:
    unpack(root, file("a/file"), link("b", "a"), file("c", b"old"), link("d", "c"))
    unpack(root, file("a", b"now a file"), directory("b"), file("c", b"new"), file("d", b"own"))
    assert (root / "a").read_bytes() == b"now a file"
    assert (root / "b").is_dir()
    assert not (root / "b").is_symlink()
    assert (root / "c").read_bytes() == b"new"
    assert (root / "d").read_bytes() == b"own"


def test_a_member_below_a_link_lands_where_the_container_would_see_it(root: Path) -> None:
    unpack(root, directory("usr/lib"), link("lib", "/usr/lib"), file("lib/libc", b"c"))
    assert (root / "usr/lib/libc").read_bytes() == b"c"
    assert (root / "lib").is_symlink()


def test_a_link_in_a_circle_is_refused(root: Path) -> None:
    with pytest.raises((ProtocolError, HostError)):
        unpack(root, link("a", "b"), link("b", "a"), file("a/f"))


@pytest.mark.parametrize("target", ["/", "../../..", "../", "/etc"])
def test_a_link_cannot_carry_a_file_out(root: Path, target: str) -> None:
    before = set(list_tree(root.parents[1])) | {
        "deep/root/evil",
        "deep/root/mark",
        "deep/root/etc",
        "deep/root/etc/mark",
    }
    unpack(root, link("evil", target), file("evil/mark", b"!"))
    assert set(list_tree(root.parents[1])) <= before
    assert not Path("/mark").exists()
    assert not Path("/etc/mark").exists()


@pytest.mark.parametrize("name", ["../mark", "a/../../mark", "./../mark", "a/../b"])
def test_a_name_that_climbs_is_refused(root: Path, name: str) -> None:
    with pytest.raises(ProtocolError, match="climbs out"):
        unpack(root, file(name))
    assert not (root.parent / "mark").exists()


def test_an_absolute_name_stays_in_the_root(root: Path) -> None:
    unpack(root, file("/mark-of-a-test"))
    assert list_tree(root) == ["mark-of-a-test"]
    assert not Path("/mark-of-a-test").exists()


@pytest.mark.parametrize("target", ["../../secret", "/deep/../../secret"])
def test_a_hard_link_cannot_reach_outside(root: Path, target: str) -> None:
    (root.parents[1] / "secret").write_text("secret")
    with pytest.raises(ProtocolError):
        unpack(root, hard_link("grab", target))


def test_a_hard_link_through_a_symbolic_link_stays_inside(root: Path) -> None:
    (root.parents[1] / "secret").write_text("secret")
    with pytest.raises(ProtocolError, match="not there"):
        unpack(root, link("up", "../.."), hard_link("grab", "up/secret"))


def test_a_whiteout_through_a_link_removes_nothing_outside(root: Path) -> None:
    victim = root.parent / "victim"
    victim.write_text("alive")
    unpack(root, link("up", ".."), file("up/.wh.victim"))
    unpack(root, file("up/.wh..wh..opq"))
    assert victim.read_text() == "alive"


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh..."])
def test_a_whiteout_of_nothing_is_refused(root: Path, name: str) -> None:
    with pytest.raises(ProtocolError):
        unpack(root, file(name))


def test_a_file_written_over_a_link_does_not_follow_it(root: Path) -> None:
    victim = root.parent / "victim"
    victim.write_text("alive")
    unpack(root, link("f", "../victim"), file("f", b"overwritten"))
    assert victim.read_text() == "alive"
    assert (root / "f").read_bytes() == b"overwritten"


def test_a_cut_off_archive_is_refused(root: Path) -> None:
    data = make_tar([file("f", b"x" * 4096)])
    descriptor = os.open(root, os.O_PATH)
    with pytest.raises(ProtocolError, match="no tar archive"):
        unpack_layer(io.BytesIO(data[:1000]), descriptor)
    os.close(descriptor)


@given(st.text())
def test_every_name_is_split_into_harmless_parts_or_refused(name: str) -> None:
    try:
        parts = split_name(name)
    except (ProtocolError, UnicodeEncodeError):
        return
    assert all(part not in ("", ".", "..") and "/" not in part for part in parts)


NAMES = st.lists(st.sampled_from(["a", "b", ".wh.a", ".wh..wh..opq", ".", "up"]), min_size=1, max_size=3).map("/".join)
ENTRIES = st.one_of(
    NAMES.map(file),
    NAMES.map(directory),
    st.builds(link, NAMES, st.sampled_from(["..", "/", "a", "../../..", "up", "b/a"])),
    st.builds(hard_link, NAMES, NAMES),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(layers=st.lists(st.lists(ENTRIES, max_size=6), max_size=3))
def test_no_layers_touch_anything_outside_their_root(tmp_path: Path, layers: list[list[Entry]]) -> None:
    root = tmp_path / "outer" / "root"
    outside = tmp_path / "outer" / "a"
    if not root.exists():
        root.mkdir(parents=True)
        outside.write_text("outside")
    for entries in layers:
        try:
            unpack(root, *entries)
        except (ProtocolError, HostError):
            break
        except KataError as error:
            raise AssertionError from error
    assert sorted(os.listdir(tmp_path / "outer")) == ["a", "root"]
    assert outside.read_text() == "outside"
