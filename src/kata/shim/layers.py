"""Roots of mounts of which the last refers to the others, as containerd's mount manager leaves them to a shim.

The EROFS snapshotter has `[erofs…, format/mkdir/overlay]`, whose options are `lowerdir={{ overlay 0 2 }}` and, where
the writable layer is a file too, `upperdir={{ mount 0 }}/upper`. What stands before the last slash of a type is done to
a mount first. Source: containerd 2.4, core/mount/manager/format.go, mkdir.go and plan.go.
"""

import os
import re
from collections.abc import Sequence

from kata.errors import UnsupportedError
from kata.protocol.messages.task import Mount

CLAIM = ("containerd.io/runtime-allow-mounts", "erofs,format/*,mkdir/*")
"""The annotation of `-info` by which a shim says what it mounts by itself."""

_REFERENCE = re.compile(r"\{\{\s*(?:(mount)\s+(\d+)|(overlay)\s+(\d+)\s+(\d+))\s*\}\}")
_MAKE = "X-containerd.mkdir.path="
_DONE = {"format", "mkdir"}


def is_layered(mounts: Sequence[Mount]) -> bool:
    """Say whether the last mount has to be made fit to the others first."""
    return bool(mounts) and "/" in mounts[-1].type


def find_references(text: str) -> list[int]:
    """Return the numbers of the mounts that a text refers to, in its order."""
    found: list[int] = []
    for _, number, overlay, first, last in _REFERENCE.findall(text):
        if overlay:
            step = 1 if int(first) <= int(last) else -1
            found += range(int(first), int(last) + step, step)
        else:
            found.append(int(number))
    return found


def get_option(mount: Mount, name: str) -> str:
    """Return the value of an option of a mount, empty without it."""
    return next((option.removeprefix(f"{name}=") for option in mount.options if option.startswith(f"{name}=")), "")


def fit_last(mounts: Sequence[Mount], places: Sequence[str]) -> Mount:
    """Return the last mount for others that are mounted at `places`, and make the directories that it wants.

    Raise UnsupportedError for what is to be done to it and is not known here, OSError.
    """

    def replace(text: str) -> str:
        def show(match: re.Match[str]) -> str:
            return ":".join(places[number] for number in find_references(match[0]))

        return _REFERENCE.sub(show, text)

    last = mounts[-1]
    *steps, kind = last.type.split("/")
    if not _DONE.issuperset(steps) or any(
        number >= len(places) for text in last.options for number in find_references(text)
    ):
        raise UnsupportedError(f"containerd asks for a mount of type {last.type}, which this shim cannot make")
    options = []
    for option in map(replace, last.options):
        if option.startswith(_MAKE):
            path, _, mode = option.removeprefix(_MAKE).partition(":")
            os.makedirs(path, int(mode.partition(":")[0] or "700", 8), exist_ok=True)
        else:
            options.append(option)
    return Mount(type=kind, source=replace(last.source), target=last.target, options=options)
