"""What is kept of a conformance suite, and what is done about one of its cases that never ends."""

import json
import sys
from pathlib import Path

import pytest

from conformance import critest, results
from conformance.results import Result
from conformance.runtime_tools import judge

_STUCK = """
import signal, sys
def end(*_):
    print("report written", flush=True)
    sys.exit(1)
signal.signal(signal.SIGINT, end)
print("Automatically polling progress:", flush=True)
while True:
    signal.pause()
"""


def test_a_run_with_a_spec_that_takes_too_long_is_interrupted_and_may_write_its_report(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert critest.run_watched([sys.executable, "-c", _STUCK], tmp_path) == critest.INTERRUPTED
    assert capfdbinary.readouterr().out.endswith(b"report written\n")


def test_a_run_that_ends_by_itself_has_its_own_exit_code(tmp_path: Path) -> None:
    assert critest.run_watched(["sh", "-c", "echo fine; exit 5"], tmp_path) == 5


def test_a_spec_that_a_first_run_did_not_come_to_has_the_outcome_of_the_second() -> None:
    first = [Result("a", "failed", "", 1.0), Result("b", "skipped", "", 0.0), Result("c", "skipped", "", 0.0)]
    second = [Result("a", "passed", "", 1.0), Result("b", "passed", "", 1.0), Result("c", "skipped", "", 0.0)]
    assert [result.outcome for result in critest.merge_reports([first, second])] == ["failed", "passed", "skipped"]


def test_a_suite_that_was_not_run_is_one_skip_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "BUILD", tmp_path)
    results.record("suite", "kata", [Result("a", "passed", "", 1.0)])
    results.record_skip("suite", "kata", "nothing is there")

    [row] = json.loads((tmp_path / "conformance.json").read_text())
    assert row == {
        "suite": "suite",
        "runtime": "kata",
        "passed": 0,
        "failed": 0,
        "skipped": 1,
        "why": "nothing is there",
    }
    assert "SKIPPED suite with kata: nothing is there" in capsys.readouterr().err


def test_the_document_shows_each_runtimes_outcome_and_why_a_case_did_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "conformance.md"
    document.write_text("# Conformance\n\n## B\n\nkept\n")
    monkeypatch.setattr(results, "BUILD", tmp_path)
    monkeypatch.setattr(results, "DOCUMENT", document)
    skipped = Result("b", "skipped", "not on this host", 0.0)
    results.record("suite", "kata", [Result("a", "failed", "wrong", 1.0), skipped])
    results.record("suite", "runc", [Result("a", "passed", "", 1.0), skipped])
    results.write_section("suite", "A", "About it.", {"vm": {"a": "in a VM"}})

    assert document.read_text().splitlines()[2:] == [
        *("## A", "", "About it.", ""),
        *("- `kata`: 0 passed, 1 failed, 1 skipped", "- `runc`: 1 passed, 0 failed, 1 skipped", ""),
        *("| case | `kata` | `runc` | why not |", "|---|---|---|---|"),
        *("| a | failed | passed | in a VM |", "| b | skipped | skipped | not on this host |", ""),
        *("## B", "", "kept"),
    ]


def test_a_failure_without_a_reason_is_counted_and_one_with_a_reason_is_not() -> None:
    found = [Result("a", "failed", "", 1.0), Result("b", "failed", "", 1.0), Result("c", "failed", "", 1.0)]
    reasons = {"suite": {"a": "for all"}, "vm": {"b": "in a VM"}}

    assert results.report("suite", "kata", found, reasons) == 1
    assert results.report("suite", "runc", found, reasons) == 2


@pytest.mark.parametrize(
    ("output", "code", "outcome"),
    [
        ("ok 1 - one\n", 0, "passed"),
        ("ok 1 - one\nnot ok 2 - two\n", 0, "failed"),
        ("ok 1 - one # SKIP\n", 0, "skipped"),
        ("", 0, "passed"),
        ("", 1, "failed"),
    ],
)
def test_a_validation_program_is_judged_by_its_test_points_and_its_exit_code(
    output: str, code: int, outcome: str
) -> None:
    assert judge("case", output, code, "", 1.0).outcome == outcome
