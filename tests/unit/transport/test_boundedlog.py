from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from kata.transport.boundedlog import BoundedLog


@given(st.lists(st.binary(max_size=300), max_size=30))
def test_the_log_is_bounded_and_its_end_is_what_was_written_last(chunks: list[bytes]) -> None:
    with TemporaryDirectory() as folder:
        log = BoundedLog(f"{folder}/log", limit=400)
        for chunk in chunks:
            log.write(chunk)
        written = b"".join(chunk[-200:] for chunk in chunks)
        tail = log.read_tail(200)
        log.close()
        assert written.endswith(tail)
        assert len(tail) == min(200, len(written))
        assert sum(path.stat().st_size for path in Path(folder).iterdir()) <= 400


def test_an_old_log_is_continued(tmp_path: Path) -> None:
    for word in (b"one ", b"two"):
        log = BoundedLog(str(tmp_path / "log"))
        log.write(word)
        log.close()
    assert (tmp_path / "log").read_bytes() == b"one two"


def test_a_closed_log_still_tells_its_end(tmp_path: Path) -> None:
    log = BoundedLog(str(tmp_path / "log"))
    log.write(b"last words")
    log.close()
    log.write(b"too late")
    assert log.read_tail() == b"last words"


def test_a_log_is_for_its_owner_only(tmp_path: Path) -> None:
    BoundedLog(str(tmp_path / "log")).close()
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
