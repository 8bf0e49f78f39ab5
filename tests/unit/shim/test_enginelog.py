"""Lines for the engine's log: they wait for a reader, never for long, and none is missing without a word."""

import os
from pathlib import Path

import pytest

from kata.shim.enginelog import EngineLog


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    os.mkfifo(path)
    return path


def _read(fifo: Path) -> list[str]:
    """Read what is in the FIFO, as an engine that comes and goes does."""
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(reader, 1 << 20).decode().splitlines()
    except BlockingIOError:
        return []
    finally:
        os.close(reader)


def test_lines_wait_for_an_engine_that_is_away_and_go_to_each_that_comes(fifo: Path) -> None:
    log = EngineLog(str(fifo))
    log.write("one")
    log.write("two")
    assert _read(fifo) == ["one", "two"]
    log.write("three")
    assert _read(fifo) == ["three"]
    log.close()


def test_what_a_full_fifo_did_not_take_is_counted_when_there_is_room_again(fifo: Path) -> None:
    log = EngineLog(str(fifo))
    for number in range(100):
        log.write(f"{number:03d}" + 1000 * "x")
    kept = len(_read(fifo))
    log.write("again")

    assert 0 < kept < 100
    assert _read(fifo) == [f"containerd-shim-kata-v2: {100 - kept} lines are not shown: nobody read them", "again"]
    log.close()


def test_a_long_line_is_cut(fifo: Path) -> None:
    log = EngineLog(str(fifo))
    log.write(10_000 * "x")
    assert _read(fifo) == [4095 * "x"]
    log.close()


@pytest.mark.parametrize("name", ["absent", "file"])
def test_without_a_fifo_lines_go_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    log = EngineLog(str(tmp_path / name))
    log.write("line")
    log.close()

    assert (tmp_path / "file").read_bytes() == b""
