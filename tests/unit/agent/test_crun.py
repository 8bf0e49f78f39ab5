"""What crun says of a failure, as the engines read it."""

from pathlib import Path

import pytest

from kata.agent.crun import read_reason


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "executable file `nosuch` not found in $PATH: No such file or directory\n",
            "executable file `nosuch` not found in $PATH: no such file or directory",
        ),
        ("open executable: Permission denied\n", "open executable: permission denied"),
        ("first: Is a directory\n\nsecond\n", "first: is a directory; second"),
        ("bad limit: ENOMEM\n", "bad limit: ENOMEM"),
        ("Alone\n", "Alone"),
        ("ends with a colon: \n", "ends with a colon: "),
        ("", ""),
    ],
)
def test_an_error_of_crun_is_spelt_as_runc_spells_it(tmp_path: Path, said: str, reason: str) -> None:
    log = tmp_path / "crun.log"
    log.write_text(said)

    assert read_reason(str(log)) == reason
    assert not log.exists()


def test_a_missing_log_of_crun_gives_no_reason(tmp_path: Path) -> None:
    assert read_reason(str(tmp_path / "crun.log")) == ""
