import json
from pathlib import Path

import pytest

from kata.hypervisor.tsc import find_counter_khz
from kata.hypervisor.tscprobe import measure_counter

pytestmark = pytest.mark.skipif(
    " constant_tsc " not in Path("/proc/cpuinfo").read_text(), reason="NO CONSTANT TSC: guests measure it themselves"
)


def test_the_frequency_is_the_same_whenever_it_is_measured() -> None:
    first, second = measure_counter(), measure_counter()
    assert first > 100_000
    assert abs(first - second) < first / 1000


def test_it_is_kept_for_this_boot(tmp_path: Path) -> None:
    khz = find_counter_khz(str(tmp_path))
    assert abs(khz - measure_counter()) < khz / 1000
    kept = json.loads((tmp_path / "tsc.json").read_text())
    (tmp_path / "tsc.json").write_text(json.dumps({**kept, "khz": 7}))
    assert find_counter_khz(str(tmp_path)) == 7


@pytest.mark.parametrize("content", ["", "[]", '{"khz": 7}', '{"key": "another", "khz": 7}'])
def test_a_kept_one_that_is_broken_or_of_another_boot_is_measured_again(tmp_path: Path, content: str) -> None:
    (tmp_path / "tsc.json").write_text(content)
    assert find_counter_khz(str(tmp_path)) > 100_000


def test_a_directory_that_cannot_be_written_costs_a_measurement_only() -> None:
    assert find_counter_khz("/proc/nowhere") > 100_000
