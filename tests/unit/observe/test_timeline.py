from pathlib import Path

import pytest

from kata.observe.timeline import Timeline, read_phases


def test_phases_come_back_from_the_file_in_order_of_start(tmp_path: Path) -> None:
    path = f"{tmp_path}/timeline.json"
    timeline = Timeline(path)
    with timeline.measure("outer"), timeline.measure("inner"):
        assert timeline.current == "inner"
    timeline.write()

    phases = read_phases(path)

    assert sorted(phase.name for phase in phases) == ["inner", "outer"]
    assert phases == sorted(phases, key=lambda phase: phase.start_ms)
    assert all(phase.ms >= 0 and not phase.failed for phase in phases)
    assert timeline.current == "idle"


def test_a_phase_that_fails_is_kept_and_marked(tmp_path: Path) -> None:
    path = f"{tmp_path}/timeline.json"
    timeline = Timeline(path)
    with timeline.measure("good"):
        pass
    with pytest.raises(ValueError, match="broken"), timeline.measure("bad"):
        raise ValueError("broken")
    timeline.write()

    assert {phase.name: phase.failed for phase in read_phases(path)} == {"good": False, "bad": True}


def test_the_innermost_phase_is_current_after_its_failure(tmp_path: Path) -> None:
    timeline = Timeline(f"{tmp_path}/timeline.json")
    with pytest.raises(ValueError, match="broken"), timeline.measure("outer"), timeline.measure("inner"):
        raise ValueError("broken")
    assert timeline.current == "inner"
    assert [phase.name for phase in timeline.phases if phase.failed] == ["inner", "outer"]


def test_a_missing_file_is_an_empty_timeline(tmp_path: Path) -> None:
    assert read_phases(f"{tmp_path}/none") == []


def test_a_long_life_keeps_its_first_and_its_last_phases(tmp_path: Path) -> None:
    timeline = Timeline(str(tmp_path / "timeline.json"))
    for number in range(1000):
        with timeline.measure(str(number)):
            pass

    names = [phase.name for phase in timeline.phases]
    assert len(names) == 128
    assert (names[:2], names[-2:]) == (["0", "1"], ["998", "999"])
