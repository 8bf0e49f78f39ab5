"""What a value of the configuration may be, beyond its type: the second half of an `Annotated` field of the model."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from kata.errors import ConfigError


class Range(NamedTuple):
    """A number between these, both included. `unit` is for the documentation."""

    least: float
    most: float
    unit: str = ""

    def check(self, value: float) -> None:
        """Raise ConfigError whose message ends the sentence "KEY …"."""
        if not self.least <= value <= self.most:
            raise ConfigError(f"is {value}", hint=f"it takes {self.describe()}")

    def describe(self) -> str:
        return f"{self.least} to {self.most}" + (f" {self.unit}" if self.unit else "")


class Choice(NamedTuple):
    """One of a few words."""

    words: tuple[str, ...]

    def check(self, value: str) -> None:
        """Raise ConfigError whose message ends the sentence "KEY …"."""
        if value not in self.words:
            raise ConfigError(f"is {value!r}", hint=f"it takes {self.describe()}")

    def describe(self) -> str:
        return ", ".join(f'"{word}"' for word in self.words)


class Path(NamedTuple):
    """An absolute path or nothing; where `named` says so, also the name of a program on the PATH."""

    named: bool = False

    def check(self, value: str) -> None:
        """Raise ConfigError whose message ends the sentence "KEY …"."""
        if "\0" in value or (value and not value.startswith("/") and (not self.named or "/" in value)):
            raise ConfigError(f"is {value!r}", hint=f"it takes {self.describe()}")

    def describe(self) -> str:
        return "an absolute path, or the name of a program on the PATH" if self.named else "an absolute path"


class ExactPaths:
    """Absolute paths that are taken as they stand: upstream's patterns would let more through than they show.

    No named tuple: all empty ones are equal, and `Annotated` keeps the first of equal ones for all.
    """

    __slots__ = ()

    def check(self, value: Sequence[str]) -> None:
        """Raise ConfigError whose message ends the sentence "KEY …"."""
        for path in value:
            if not path.startswith("/") or os.path.normpath(path) != path or any(sign in path for sign in "*?[\0"):
                raise ConfigError(f"has {path!r}", hint=f"it takes {self.describe()}")

    def describe(self) -> str:
        return "absolute paths without patterns, in their shortest form"


class Words:
    """Texts without a line's end. No named tuple, as `ExactPaths` is none."""

    __slots__ = ()

    def check(self, value: str | Sequence[str]) -> None:
        """Raise ConfigError whose message ends the sentence "KEY …"."""
        for text in [value] if isinstance(value, str) else value:
            if any(sign in text for sign in "\n\r\0"):
                raise ConfigError(f"has {text!r}", hint=f"it takes {self.describe()}")

    def describe(self) -> str:
        return "no line's end"


TYPES: dict[str, tuple[type, str]] = {
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "str": (str, "a text in quotes"),
    "list": (list, "a list of texts"),
}
"""TOML's types by the name of Python's, and what to call them in an error."""


def check_type(value: Any, wanted: str) -> None:
    """Raise ConfigError whose message ends the sentence "KEY …". A list holds texts; a whole number is a number."""
    kind, name = TYPES[wanted]
    if type(value) is not kind and not (kind is float and type(value) is int):
        found = next((words for known, words in TYPES.values() if type(value) is known), "a table or a date")
        raise ConfigError(f"is {value!r}, {found}, where {name} is needed")
    if isinstance(value, list) and any(type(item) is not str for item in value):
        raise ConfigError(f"is {value!r}, where {name} is needed")
