"""Programs of this package that run in processes of their own."""

import os
import sys

_PROGRAM = "import sys; sys.path.insert(0, {!r}); from kata.sandbox.{} import main; sys.exit(main())"


def find_own_program(module: str) -> list[str]:
    """Return the command that runs `main` of a module of this folder; arguments may be appended."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return [sys.executable or "/usr/bin/python3", "-IS", "-c", _PROGRAM.format(package, module)]
