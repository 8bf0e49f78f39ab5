import os
import stat
from pathlib import Path

import pytest

from kata.sys.file import read_text, replace_file


def test_a_file_is_replaced_with_the_mode_asked_for_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(str(path), "old")
    replace_file(str(path), "new ü", 0o640)
    assert read_text(str(path)) == "new ü"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_a_text_that_cannot_be_written_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(str(path), "old")
    with pytest.raises(UnicodeEncodeError):
        replace_file(str(path), "lone surrogate \ud800")
    assert read_text(str(path)) == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_reader_that_holds_the_old_file_reads_all_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(str(path), "old" * 1000)
    with path.open() as reader:
        replace_file(str(path), "n")
        assert reader.read() == "old" * 1000


def test_a_missing_file_reads_as_empty(tmp_path: Path) -> None:
    assert read_text(str(tmp_path / "absent")) == ""
