"""Volumes that are read whole, to be copied."""

import os
import socket
from pathlib import Path

import pytest

from kata.errors import KataError, NotFoundError, UnsupportedError
from kata.storage import snapshot
from kata.storage.snapshot import read_snapshot


def test_a_directory_is_read_with_all_that_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_text("text")
    (tmp_path / "link").symlink_to("a/file")
    found = read_snapshot(str(tmp_path))
    assert {name: entry.data for name, entry in found.items()} == {
        ".": b"",
        "a": b"",
        "a/file": b"text",
        "link": b"a/file",
    }


def test_a_file_is_read_by_the_path_that_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    assert read_snapshot(str(tmp_path / "link"))["."].data == b"text"


def test_too_much_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10)
    monkeypatch.setattr(snapshot, "MOST_BYTES", 9)
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(UnsupportedError, match=f"{path} cannot be copied .* more than") as caught:
            read_snapshot(str(path))
        assert "direct-assigned volume" in str(caught.value)


@pytest.mark.parametrize("name", ["pipe", "socket", "missing"])
def test_what_is_no_file_and_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    with pytest.raises(KataError, match=f"{tmp_path}/{name} cannot be copied") as caught:
        read_snapshot(str(tmp_path / name))
    assert isinstance(caught.value, NotFoundError if name == "missing" else UnsupportedError)
