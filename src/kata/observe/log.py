"""One JSON object a line, with the field names that Kata's log parsers know.

`time`, `level`, `msg`, `name`, `pid`, `source`, `sandbox` are a contract with them.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

Level = Literal["debug", "info", "warning", "error"]
_ORDER = ("debug", "info", "warning", "error")


class Log:
    """Writes lines to standard error, which the sandbox's daemon has on its log file, and gives them to `echo`."""

    def __init__(self, sandbox: str, source: str, level: Level = "info") -> None:
        self._fixed = {"name": "kata-runtime", "pid": os.getpid(), "source": source, "sandbox": sandbox}
        self._least = _ORDER.index(level)
        self.echo: Callable[[str], None] | None = None

    def show_all(self) -> None:
        """Write lines of every level from now on."""
        self._least = 0

    def write(self, level: Level, message: str, **fields: Any) -> None:
        """Write a line, without `fields` where one of them has no JSON form. It never raises: work goes on unlogged."""
        if _ORDER.index(level) < self._least:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
        line = {"time": stamp, "level": level, "msg": message, **self._fixed}
        try:
            text = json.dumps(line | fields, default=str)
        except Exception:  # noqa: BLE001 - a value's own __str__ may raise anything
            text = json.dumps(line)
        with suppress(OSError, ValueError):  # a full disk, nobody at the other end, or a closed stream
            print(text, file=sys.stderr, flush=True)
        if self.echo is not None:
            self.echo(text)
