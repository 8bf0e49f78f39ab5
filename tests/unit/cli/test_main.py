"""Global flags, help, errors, log lines, and what a command imports."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.cli.commands import COMMANDS
from kata.cli.container_id import check_id
from kata.cli.control import parse_signal
from kata.cli.log import format_line
from kata.errors import UsageError
from unit.cli.runtime import SOURCE, Runtime

MOMENT = time.gmtime(0)


def test_help_and_version_are_printed_from_the_table(runtime: Runtime) -> None:
    shown = runtime.succeed("--help")
    for command in COMMANDS.values():
        assert (f"   {command.name} " in shown) is not command.hidden
        described = runtime.succeed(command.name, "--help")
        assert all(flag.describe() in described for flag in command.flags)
    assert runtime.succeed("--version").startswith("kata-runtime version ")
    assert runtime.succeed("help", "exec") == runtime.succeed("exec", "-h")


def test_an_unknown_command_is_status_3(runtime: Runtime) -> None:
    done = runtime.run("frobnicate")
    assert done.returncode == 3
    assert "No help topic for 'frobnicate'" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frob"], "flag provided but not defined: -frob"),
        (["state", "--frob", "c1"], "flag provided but not defined: -frob"),
        (["state"], 'kata-runtime: \\"state\\" requires exactly 1 argument(s)'),
        (["kill", "a", "9", "b"], 'kata-runtime: \\"kill\\" requires a maximum of 2 argument(s)'),
        (["exec"], 'kata-runtime: \\"exec\\" requires a minimum of 1 argument(s)'),
        (["--log-format", "xml", "list"], "invalid log-format: xml"),
    ],
)
def test_incorrect_usage_is_explained_on_stdout_and_reported_on_stderr(
    runtime: Runtime, words: list[str], message: str
) -> None:
    done = runtime.run(*words)
    assert done.returncode == 1
    assert done.stdout.startswith("Incorrect Usage: ")
    assert f'level=error msg="{message}"' in done.stderr


def test_a_json_log_is_what_conmon_reads(runtime: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = runtime.run("--log", str(log), "--log-format=json", "state", "nobody")
    assert done.stderr == "container does not exist\n"
    line = json.loads(log.read_text())
    assert line.pop("time")
    assert line == {"level": "error", "msg": "container does not exist"}


def test_a_log_that_cannot_be_written_does_not_hide_the_error(runtime: Runtime) -> None:
    done = runtime.run("--log", "/nowhere/log", "state", "nobody")
    assert done.returncode == 1
    assert "container does not exist" in done.stderr


@given(st.text(st.characters(codec="utf-8")))
def test_any_message_is_one_line_that_can_be_read_back(message: str) -> None:
    line = format_line("json", "error", message, MOMENT)
    assert "\n" not in line
    assert json.loads(line)["msg"] == message
    text = format_line("text", "error", message, MOMENT)
    assert "\n" not in text
    prefix = 'time="1970-01-01T00:00:00Z" level=error msg='
    assert text.startswith(prefix)
    quoted = text.removeprefix(prefix)
    assert (json.loads(quoted) if quoted.startswith('"') else quoted) == message


@pytest.mark.parametrize("name", ["a", "A-b_c.d+e", "0" * 64])
def test_ids_that_runc_takes_are_taken(name: str) -> None:
    assert check_id(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a b", "ü", "a\0", "x" * 300])
def test_ids_that_could_be_another_path_are_refused(runtime: Runtime, name: str) -> None:
    with pytest.raises(UsageError):
        check_id(name)


@given(st.text())
def test_no_id_that_passes_leaves_its_directory(name: str) -> None:
    try:
        check_id(name)
    except UsageError:
        return
    assert re.fullmatch(r"[\w+\-.]+", name, re.ASCII)
    assert name not in (".", "..")


@pytest.mark.parametrize(
    ("text", "number"),
    [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)],
)
def test_signals_go_by_name_and_number(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "999", "FOO", "-9", "TERM+1", "RTMIN+99", "RTMIN+", "²"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_signal(text)


HOT = ["create", "start", "state", "kill", "delete", "exec", "pause", "resume"]
FORBIDDEN = {
    "argparse",
    "asyncio",
    "ctypes",
    "dataclasses",
    "datetime",
    "inspect",
    "logging",
    "pathlib",
    "random",
    "subprocess",
    "tempfile",
    "threading",
    "typing",
    "urllib",
}
OWN = {"kata", "kata.cli", "kata.errors", "kata.protocol", "kata.transport", "kata.transport.ttrpc_blocking"}
PREFIXES = ("kata.cli.", "kata.protocol.oci", "kata.protocol.messages", "kata.protocol.protobuf", "kata.protocol.ttrpc")


def list_modules(command: str) -> set[str]:
    module = COMMANDS[command].target.partition(":")[0]
    code = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r}); import kata.cli.main, kata.cli.{module}; print(*sys.modules)"
    )
    done = subprocess.run(["/usr/bin/python3", "-IS", "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("command", HOT)
def test_a_command_that_engines_run_for_each_container_imports_little(command: str) -> None:
    modules = list_modules(command)
    assert modules & FORBIDDEN == set()
    foreign = {name for name in modules if name.partition(".")[0] == "kata"} - OWN
    assert {name for name in foreign if not name.startswith(PREFIXES)} == set()
    assert len(modules) <= 120
