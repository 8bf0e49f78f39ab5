import time
from pathlib import Path

from kata.agent.clock import compare_clock, find_host_clock


def test_the_hosts_clock_is_found_among_others_by_its_name(tmp_path: Path) -> None:
    assert find_host_clock(str(tmp_path / "absent")) == ""
    for name, text in (("ptp0", "a network card\n"), ("ptp1", "KVM virtual PTP\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "clock_name").write_text(text)
    assert find_host_clock(str(tmp_path)) == "/dev/ptp1"
    (tmp_path / "ptp1/clock_name").write_text("another\n")
    assert find_host_clock(str(tmp_path)) == ""


def test_a_clock_is_compared_with_its_own_kind_to_within_the_uncertainty() -> None:
    ahead, uncertainty = compare_clock(time.CLOCK_REALTIME)
    assert uncertainty > 0
    assert abs(ahead) <= uncertainty
