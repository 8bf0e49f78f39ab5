"""`kata-runtime`: an OCI runtime's command line, and the operator's.

Engines run it several times per container, so a command imports only what it uses.
This is one of the two places where errors end: here they become a log line and an exit code.
"""

from __future__ import annotations

import os
import sys

from kata.cli.commands import COMMANDS, GLOBAL_FLAGS, Command
from kata.cli.flags import Value, parse_flags
from kata.cli.invocation import Invocation
from kata.cli.log import Log
from kata.errors import KataError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_UNKNOWN_COMMAND = 3
_PREFIXED = ("create", "exec", "run")
"""Commands whose errors begin with `<name> failed:`, as runc's do."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    log = Log()
    try:
        general, rest, _ = parse_flags(GLOBAL_FLAGS, sys.argv[1:] if words is None else words, interspersed=False)
        log = open_log(general)
    except UsageError as error:
        return _explain(str(error), None, log)
    if general["version"]:
        return run_version(None)
    if general["help"] or not rest or rest[0] in ("help", "h"):
        return _help(rest[1:], log)
    command = COMMANDS.get(rest[0])
    if command is None:
        return _refuse(rest[0], log)
    return _parse_and_run(command, rest[1:], general, log)


def open_log(general: dict[str, Value]) -> Log:
    """Return the log that the global flags describe. Raise UsageError on an unknown format."""
    form = str(general["log-format"])
    if form not in ("text", "json"):
        raise UsageError(f"invalid log-format: {form}")
    return Log(str(general["log"]), form)


def _parse_and_run(command: Command, words: Sequence[str], general: dict[str, Value], log: Log) -> int:
    try:
        flags, arguments, separated = parse_flags(command.flags, words, interspersed=command.interspersed)
        if flags["help"]:
            return _help([command.name], log)
        _check_count(command, arguments)
    except UsageError as error:
        return _explain(str(error), command, log)
    return _run(command, Invocation(general, flags, arguments, separated, log))


def _check_count(command: Command, arguments: list[str]) -> None:
    count = len(arguments)
    if command.least == command.most and count != command.least:
        raise UsageError(f'kata-runtime: "{command.name}" requires exactly {command.least} argument(s)')
    if count < command.least:
        raise UsageError(f'kata-runtime: "{command.name}" requires a minimum of {command.least} argument(s)')
    if count > command.most >= 0:
        raise UsageError(f'kata-runtime: "{command.name}" requires a maximum of {command.most} argument(s)')


def _run(command: Command, invocation: Invocation) -> int:
    prefix = f"{command.name} failed: " if command.name in _PREFIXED else ""
    try:
        return _find_target(command)(invocation)
    except KataError as error:
        invocation.log.write_error(f"{prefix}{error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader is gone: what is left goes nowhere at exit
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        invocation.log.write_error(f"{prefix}{(error.strerror or str(error)).lower()}{name}")
    except KeyboardInterrupt:
        return 130
    return command.failure


def _find_target(command: Command) -> Callable[[Invocation], int]:
    module, _, function = command.target.partition(":")
    __import__(f"kata.cli.{module}")
    target: Callable[[Invocation], int] = getattr(sys.modules[f"kata.cli.{module}"], function)
    return target


def _help(topics: Sequence[str], log: Log) -> int:
    from kata.cli.usage import describe_command, describe_program  # noqa: PLC0415 - not on the way of a command

    if not topics:
        print(describe_program())
        return 0
    command = COMMANDS.get(topics[0])
    if command is None:
        return _refuse(topics[0], log)
    print(describe_command(command))
    return 0


def _refuse(name: str, log: Log) -> int:
    log.write_error(f"No help topic for '{name}'")
    return _UNKNOWN_COMMAND


def _explain(reason: str, command: Command | None, log: Log) -> int:
    from kata.cli.usage import describe_command, describe_program  # noqa: PLC0415 - not on the way of a command

    print(f"Incorrect Usage: {reason}\n")
    print(describe_command(command) if command else describe_program())
    log.write_error(reason)
    return 1


def run_version(_invocation: Invocation | None) -> int:
    from kata.cli.usage import describe_version  # noqa: PLC0415 - not on the way of a command

    print(describe_version())
    return 0
