"""The how-to pages, followed word for word: their blocks, and a shell in which their commands reach a test's daemon."""

import os
import re
import shlex
import subprocess
from pathlib import Path

_PAGES = Path(__file__).parents[1] / "docs/how-to"
_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_TIMEOUT = 300.0


def read_blocks(page: str, language: str = "") -> list[str]:
    """Return the blocks of a page in this language, in their order; those without one are commands."""
    text = (_PAGES / f"{page}.md").read_text()
    return [found["text"] for found in _BLOCK.finditer(text) if found["language"] == language]


def find_block(page: str, word: str, language: str = "") -> str:
    """Return the one block of a page that holds `word`."""
    [block] = [block for block in read_blocks(page, language) if word in block]
    return block


def follow(commands: str, place: Path, programs: dict[str, list[str]]) -> str:
    """Run the commands in the directory `place`, until one fails, and return what they printed.

    `programs` says by which words a program of that name is started, so that it reaches the test's own daemon.
    """
    folder = place / "by-hand"
    folder.mkdir(exist_ok=True)
    for name, words in programs.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        (folder / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-eux", "-c", commands],
        cwd=place,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, f"a command of the page ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout
