"""Small trees, read and made elsewhere as the kubelet changes its volumes."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import UsageError
from kata.sys.filetree import MOST_ENTRIES, Entry, publish_entries, read_entries, sign_tree

_FILE, _FOLDER, _LINK = stat.S_IFREG | 0o640, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
_SIZE = 1 << 20


def _write_version(volume: Path, version: str, *keys: str) -> None:
    """Change a volume as the kubelet does."""
    folder = volume / f"..{version}"
    folder.mkdir()
    for key in keys:
        (folder / key).write_text(version)
    (volume / "..data_tmp").symlink_to(folder.name)
    (volume / "..data_tmp").rename(volume / "..data")
    for key in keys:
        if not (volume / key).is_symlink():
            (volume / key).symlink_to(f"..data/{key}")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "copy").mkdir()
    return tmp_path / "copy"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def test_a_copy_follows_a_volume_and_keeps_what_has_not_changed(volume: Path, copy: Path) -> None:
    _write_version(volume, "one", "a", "gone")
    (volume / "plain").write_text("stays")
    publish_entries(str(copy), read_entries(str(volume), size=_SIZE))
    assert ((copy / "a").read_text(), (copy / "gone").read_text()) == ("one", "one")
    untouched = (copy / "plain").stat().st_ino

    _write_version(volume, "two", "a", "b")
    (volume / "gone").unlink()
    (volume / "..one/a").unlink()
    (volume / "..one/gone").unlink()
    (volume / "..one").rmdir()
    publish_entries(str(copy), read_entries(str(volume), size=_SIZE))

    assert sorted(os.listdir(copy)) == ["..data", "..two", "a", "b", "plain"]
    assert ((copy / "a").read_text(), (copy / "b").read_text()) == ("two", "two")
    assert (copy / "plain").stat().st_ino == untouched


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owners_and_modes_come_along(volume: Path, copy: Path) -> None:
    (volume / "key").write_text("secret")
    os.chown(volume / "key", 1000, 2000)
    (volume / "key").chmod(0o440)
    volume.chmod(0o2750)
    publish_entries(str(copy), read_entries(str(volume), size=_SIZE))
    status = (copy / "key").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o440, 1000, 2000)
    assert copy.stat().st_mode & 0o7777 == 0o2750


def test_a_tree_that_is_too_big_is_not_read(volume: Path) -> None:
    (volume / "key").write_bytes(bytes(11))
    assert len(read_entries(str(volume), size=11)) == 2
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_entries(str(volume), size=10)
    for number in range(MOST_ENTRIES):
        (volume / f"{number}").touch()
    with pytest.raises(OSError, match="files"):
        read_entries(str(volume), size=_SIZE)


def test_special_files_are_left_out(volume: Path) -> None:
    os.mkfifo(volume / "fifo")
    assert [entry.path for entry in read_entries(str(volume), size=_SIZE)] == ["."]


def test_a_change_changes_the_signature(volume: Path) -> None:
    _write_version(volume, "one", "a")
    before = sign_tree(str(volume))
    assert sign_tree(str(volume)) == before
    _write_version(volume, "two", "a")
    assert sign_tree(str(volume)) != before


def test_no_link_in_a_copy_leads_out_of_it(tmp_path: Path, copy: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (copy / "folder").symlink_to(outside)
    (copy / "key").symlink_to(outside / "file")
    entries = [
        Entry("folder", _FOLDER, os.getuid(), os.getgid()),
        Entry("folder/file", _FILE, os.getuid(), os.getgid(), b"new"),
        Entry("key", _FILE, os.getuid(), os.getgid(), b"new"),
    ]
    publish_entries(str(copy), entries)
    assert (outside / "file").read_text() == "mine"
    assert ((copy / "folder/file").read_text(), (copy / "key").read_text()) == ("new", "new")


@pytest.mark.parametrize("path", ["../x", "", "a/..", "/etc/x", "link/x"])
def test_a_path_that_leads_out_is_refused(copy: Path, path: str) -> None:
    (copy / "link").symlink_to("/tmp")
    with pytest.raises((UsageError, OSError)):
        publish_entries(str(copy), [Entry(path, _FILE, os.getuid(), os.getgid(), b"")])


_NAMES = st.sampled_from(["a", "b", "..data", "..v1", "..v2"])
_LEAVES = st.one_of(st.tuples(st.just(_FILE), st.binary(max_size=4)), st.tuples(st.just(_LINK), st.just(b"..v1")))
_TREES = st.dictionaries(_NAMES, _LEAVES | st.dictionaries(_NAMES, _LEAVES, max_size=2), max_size=4)


def _list(tree: dict[str, object], above: str = "") -> list[Entry]:
    entries = []
    for name, value in tree.items():
        if isinstance(value, dict):
            entries.append(Entry(above + name, _FOLDER, os.getuid(), os.getgid()))
            entries += _list(value, f"{above}{name}/")
        else:
            assert isinstance(value, tuple)
            entries.append(Entry(above + name, value[0], os.getuid(), os.getgid(), value[1]))
    return entries


@given(st.lists(_TREES, min_size=1, max_size=3))
def test_a_copy_is_what_was_published_last(
    tmp_path_factory: pytest.TempPathFactory, trees: list[dict[str, object]]
) -> None:
    copy = tmp_path_factory.mktemp("copy")
    for tree in trees:
        publish_entries(str(copy), _list(tree))
    found = [entry for entry in read_entries(str(copy), size=_SIZE) if entry.path != "."]
    assert sorted(found) == sorted(_list(trees[-1]))
