"""The event loop of this process, where one may have run already when its program begins."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

_kept: asyncio.Runner | None = None


def keep_loop(runner: asyncio.Runner) -> None:
    """Have `run_in_loop` use a loop that things are bound to already: those of a VM that waits."""
    global _kept  # noqa: PLW0603 - a process has one
    _kept = runner


def has_kept_loop() -> bool:
    """Say whether this process has waited for its program, in mounts of its own and as nobody's child."""
    return _kept is not None


def run_in_loop(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a program's coroutine to its end, as asyncio.run does, in the loop that this process has or in a new one."""
    return asyncio.run(main) if _kept is None else _kept.run(main)
