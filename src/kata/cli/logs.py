"""`logs`: what the daemon, the guest's agent and the guest's console of a sandbox said."""

import os
import select
import sys

from kata.cli.invocation import Invocation
from kata.cli.records import find_sandbox_dir
from kata.cli.sandbox_id import find_sandbox
from kata.errors import UsageError
from kata.protocol.text import clean_text

_SOURCES = ("service", "agent", "console")
_PAUSE_MS = 200
_CHUNK = 1 << 16


def run_logs(invocation: Invocation) -> int:
    wanted = invocation.text("source")
    if wanted and wanted not in _SOURCES:
        raise UsageError(f"--source {wanted} is unknown", hint=f"one of {', '.join(_SOURCES)}")
    directory = find_sandbox_dir(invocation.root, find_sandbox(invocation.root, invocation.arguments[0]))
    tails = [Tail(f"{directory}/{name}.log", name) for name in _SOURCES if wanted in ("", name)]
    while True:
        for tail in tails:
            tail.print_news(named=len(tails) > 1)
        if not invocation.switch("follow") or not os.path.isdir(directory):
            return 0
        select.select([], [], [], _PAUSE_MS / 1000)


class Tail:
    """A file that grows; one that is not there yet is empty."""

    def __init__(self, path: str, name: str) -> None:
        self._path = path
        self._name = name
        self._at = 0
        self._rest = b""

    def print_news(self, *, named: bool) -> None:
        """Print the lines that came since, `named` after their source. A guest's control characters become ?."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._at)
                while chunk := file.read(_CHUNK):
                    self._at += len(chunk)
                    self._rest += chunk
        except FileNotFoundError:
            pass
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            shown = clean_text(text, keep="\t")
            print(f"{self._name}: {shown}" if named else shown)
        sys.stdout.flush()
