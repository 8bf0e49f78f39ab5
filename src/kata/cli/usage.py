"""The text of `--help`, made from the table of commands."""

import textwrap
from collections.abc import Iterable, Sequence

from kata import __version__
from kata.cli.commands import COMMANDS, GLOBAL_FLAGS, Command
from kata.cli.flags import Flag

SPEC_VERSION = "1.0.2"


def describe_version() -> str:
    return f"kata-runtime version {__version__}\nspec: {SPEC_VERSION}"


def _list_flags(flags: Sequence[Flag]) -> Iterable[str]:
    width = max(len(flag.describe()) for flag in flags)
    for flag in flags:
        default = f' (default: "{flag.default}")' if flag.default else ""
        text = textwrap.wrap(flag.help + default, 118 - width)
        yield f"   {flag.describe():{width}}  {text[0]}"
        yield from (" " * (width + 5) + line for line in text[1:])


def describe_program() -> str:
    shown = [command for command in COMMANDS.values() if not command.hidden]
    width = max(len(command.name) for command in shown)
    return "\n".join(
        (
            "NAME:",
            "   kata-runtime - run OCI containers inside lightweight virtual machines",
            "",
            "USAGE:",
            "   kata-runtime [global options] command [command options] [arguments...]",
            "",
            "VERSION:",
            f"   {__version__}",
            "",
            "COMMANDS:",
            *(f"   {command.name:{width}}  {command.summary}" for command in shown),
            "",
            "GLOBAL OPTIONS:",
            *_list_flags(GLOBAL_FLAGS),
        )
    )


def describe_command(command: Command) -> str:
    options = " [command options]" if len(command.flags) > 1 else ""
    arguments = f" {command.arguments}" if command.arguments else ""
    return "\n".join(
        (
            "NAME:",
            f"   kata-runtime {command.name} - {command.summary}",
            "",
            "USAGE:",
            f"   kata-runtime {command.name}{options}{arguments}",
            "",
            "OPTIONS:",
            *_list_flags(command.flags),
        )
    )
