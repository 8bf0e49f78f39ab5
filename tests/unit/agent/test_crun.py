"""How crun is run, and what it says of a failure, as the engines read it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from kata.agent.crun import read_reason, seal_program


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


def test_a_program_is_run_from_a_copy_that_nobody_can_write_to(tmp_path: Path) -> None:
    path = seal_program("sleep")
    with subprocess.Popen(["sleep", "1000"], executable=path, pass_fds=[int(path.rpartition("/")[2])]) as process:
        try:
            copy = f"/proc/{process.pid}/exe"
            assert re.fullmatch("/memfd:sleep.*", os.readlink(copy))
            assert Path(copy).read_bytes() == Path("/usr/bin/sleep").read_bytes()
            with pytest.raises(OSError, match=r"Text file busy|not permitted"):
                os.open(copy, os.O_WRONLY)
        finally:
            process.kill()
    with pytest.raises(PermissionError):
        os.pwrite(os.open(path, os.O_RDWR), b"x", 0)
    assert seal_program("no-such-program") == "no-such-program"
