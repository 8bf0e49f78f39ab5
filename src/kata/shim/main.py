"""`containerd-shim-kata-v2`: what containerd runs for each container. Each action imports only what it needs."""

from __future__ import annotations

import sys

from kata import __version__
from kata.errors import KataError
from kata.shim.flags import parse_flags

_NAME = "containerd-shim-kata-v2"
_USAGE = f"usage: {_NAME} [-address A] [-namespace N] [-id ID] [-bundle DIR] [-debug] [start | delete]"


def main() -> int:
    """Run the action of the command line; an error is one line on standard error, and exit code 1."""
    try:
        return _run(sys.argv[0], sys.argv[1:])
    except KataError as error:
        print(f"{_NAME}: {error}", file=sys.stderr)
        return 1


def _run(program: str, words: list[str]) -> int:
    invocation = parse_flags(program, words)
    if invocation.switches & {"help", "h"}:
        print(_USAGE)
        return 0
    if invocation.switches & {"version", "v"}:
        print(f"{_NAME}:\n  Version:  {__version__}")
        return 0
    if "info" in invocation.switches:
        from kata.shim.info import print_info  # noqa: PLC0415 - off the path of `start`

        return print_info(invocation)
    if invocation.action == "start":
        from kata.shim.start import start  # noqa: PLC0415 - off the path of the others

        return start(invocation)
    if invocation.action == "delete":
        from kata.shim.delete import delete  # noqa: PLC0415 - off the path of `start`

        return delete(invocation)
    from kata.sys.deferred import defer_modules  # noqa: PLC0415 - off the path of `start`

    defer_modules()
    from kata.shim.daemon import serve  # noqa: PLC0415 - off the path of `start`

    return serve(invocation)
