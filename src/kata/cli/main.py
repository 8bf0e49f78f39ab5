"""`kata-runtime`: an OCI runtime's command line, and the operator's.

Engines run it several times per container, so a command imports only what it uses.
This is one of the two places where errors end: here they become a log line and an exit code.
"""

import sys
from collections.abc import Callable, Sequence

from kata.cli.commands import COMMANDS, GLOBAL_FLAGS, Command
from kata.cli.flags import parse_flags
from kata.cli.invocation import Invocation
from kata.cli.log import Log
from kata.errors import KataError, UsageError

_UNKNOWN_COMMAND = 3
_PREFIXED = ("create", "exec", "run")
"""Commands whose errors begin with `<name> failed:`, as runc's do."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    words = sys.argv[1:] if words is None else words
    log = Log()
    try:
        general, rest = parse_flags(GLOBAL_FLAGS, words, interspersed=False)
    except UsageError as error:
        return _explain(str(error), None, log)
    log = Log(str(general["log"]), str(general["log-format"]), debug=general["debug"] is True)
    if log.form not in ("text", "json"):
        form, log.form = log.form, "text"
        log.write_error(f"invalid log-format: {form}")
        return 1
    if general["version"]:
        return run_version(None)
    if general["help"] or not rest or rest[0] in ("help", "h"):
        return _help(rest[1:], log)
    command = COMMANDS.get(rest[0])
    if command is None:
        log.write_error(f"No help topic for '{rest[0]}'")
        return _UNKNOWN_COMMAND
    try:
        flags, arguments = parse_flags(command.flags, rest[1:], interspersed=command.interspersed)
        if flags["help"]:
            return _help([command.name], log)
        _check_count(command, arguments)
    except UsageError as error:
        return _explain(str(error), command, log)
    return _run(command, Invocation(command.name, general, flags, arguments, log))


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
        sys.stdout = None  # type: ignore[assignment]  # the reader is gone: nothing may be flushed to it at exit
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
        log.write_error(f"No help topic for '{topics[0]}'")
        return _UNKNOWN_COMMAND
    print(describe_command(command))
    return 0


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
