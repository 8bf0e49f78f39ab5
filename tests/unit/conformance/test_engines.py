"""What is counted of the tests that drive engines."""

import json
from pathlib import Path

import pytest

from conformance import engines, results

_REPORT = """<testsuites><testsuite>
<testcase classname="a" name="good" time="1.25"/>
<testcase classname="a" name="bad" time="2"><failure message="it is&#10;wrong">text</failure></testcase>
<testcase classname="a" name="late" time="0.1"/>
<testcase classname="a" name="late" time="0.1"><error message="left behind">text</error></testcase>
<testcase classname="a" name="lacking" time="0"><skipped message="MISSING crio">text</skipped></testcase>
</testsuite></testsuites>"""


def test_a_test_whose_fixture_fails_after_it_passed_counts_once_and_as_failed(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    report.write_text(_REPORT)

    assert [(result.case, result.outcome, result.why) for result in engines.read_report(report)] == [
        ("a.good", "passed", ""),
        ("a.bad", "failed", "it is wrong"),
        ("a.late", "failed", "left behind"),
        ("a.lacking", "skipped", "MISSING crio"),
    ]


def test_a_suite_of_tests_is_run_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "BUILD", tmp_path / "build")
    (tmp_path / "test_it.py").write_text("def test_good(): pass\ndef test_bad(): assert False\n")

    assert engines.run_suite("some", tmp_path) == 1
    [row] = json.loads((tmp_path / "build/conformance.json").read_text())
    assert row == {"suite": "some", "runtime": "kata", "passed": 1, "failed": 1, "skipped": 0}


def test_a_run_without_a_report_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "BUILD", tmp_path / "build")

    assert engines.run_suite("some", tmp_path / "absent") == 1


def test_each_engine_that_is_tested_is_a_suite() -> None:
    folders = {path.name for path in (engines.ROOT / "tests").iterdir() if path.is_dir()}

    assert {"podman", "containerd", "cri", "crio"} <= folders & set(engines.SUITES)
