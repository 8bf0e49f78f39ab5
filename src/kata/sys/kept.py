"""Answers that cost a process each time, kept in the state directory by what they depend on."""

import json
import os
from contextlib import suppress
from typing import Any

from kata.sys.file import replace_file


def recall_answer(directory: str | None, name: str, key: str) -> dict[str, Any]:
    """Return what was kept by this name, nothing where that is absent, half written or for another `key`.

    Nothing is kept without a directory.
    """
    if directory is None:
        return {}
    with suppress(OSError, ValueError, KeyError, TypeError), open(f"{directory}/{name}.json", encoding="utf-8") as file:
        kept = json.load(file)
        if kept["key"] == key:
            return dict(kept)
    return {}


def keep_answer(directory: str | None, name: str, key: str, answer: dict[str, Any]) -> None:
    """Keep an answer. A directory that cannot be written means asking again next time, and is no reason to fail."""
    if directory is None:
        return
    with suppress(OSError):
        os.makedirs(directory, mode=0o700, exist_ok=True)
        replace_file(f"{directory}/{name}.json", json.dumps({"key": key, **answer}))
