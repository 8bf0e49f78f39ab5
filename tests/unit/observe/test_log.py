import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kata
from kata.observe.log import Log

_SOURCE = str(Path(kata.__file__).parents[1])


class _Unprintable:
    def __str__(self) -> str:
        raise LookupError("no name")


def _list_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_has_the_fields_that_parsers_know(capsys: pytest.CaptureFixture[str]) -> None:
    Log("s", "sandbox").write("error", "it broke\nhere", extra=OSError("why"))
    [line] = _list_lines(capsys)
    assert {"time", "level", "msg", "name", "pid", "source", "sandbox"} <= line.keys()
    assert (line["msg"], line["sandbox"], line["extra"]) == ("it broke\nhere", "s", "why")


def test_what_is_below_the_level_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log("s", "sandbox", "warning")
    log.write("info", "no")
    log.write("warning", "yes")
    assert [line["msg"] for line in _list_lines(capsys)] == ["yes"]


@pytest.mark.parametrize("field", [_Unprintable(), {(1, 2): 3}])
def test_a_field_without_a_json_form_does_not_cost_the_message(
    capsys: pytest.CaptureFixture[str], field: object
) -> None:
    Log("s", "sandbox").write("error", "kept", field=field)
    assert [line["msg"] for line in _list_lines(capsys)] == ["kept"]


def test_a_full_disk_costs_the_line_only() -> None:
    program = "from kata.observe.log import Log; Log('s', 'sandbox').write('error', 'lost'); print('went on')"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": _SOURCE},
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
        )
    assert done.stdout == b"went on\n"


def test_a_closed_stream_costs_the_line_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/null", "w") as closed:
        closed.close()
        monkeypatch.setattr(sys, "stderr", closed)
        Log("s", "sandbox").write("error", "lost")
        monkeypatch.undo()
