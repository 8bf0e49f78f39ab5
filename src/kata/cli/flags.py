"""Flags as Go programs take them: `--name value`, `--name=value`, one dash or two, parsed from a table.

Source: package flag of Go, as `runc` behaves. argparse is not used: importing it costs as much as a whole `state`,
and it refuses `-name value`.
"""

from __future__ import annotations

from kata.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Value = bool | str | int | float | list[str] | None
"""What a flag may hold. A flag that was not given holds its kind's empty value, a number None."""

_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")
_EMPTY: dict[str, Value] = {"switch": False, "text": ""}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Flag:
    """One row of a command's table. `kind` is one of switch, text, list, number, duration."""

    __slots__ = ("default", "help", "kind", "name", "short")

    def __init__(self, name: str, kind: str, explanation: str, short: str = "", default: str = "") -> None:
        self.name = name
        self.kind = kind
        self.help = explanation
        self.short = short
        self.default = default

    def describe(self) -> str:
        """Return the left column of `--help`."""
        names = (f"--{self.name}", f"-{self.short}") if self.short else (f"--{self.name}",)
        return ", ".join(name if self.kind == "switch" else f"{name} value" for name in names)

    def read(self, text: str) -> Value:
        """Turn the text of a value into the value. Raise UsageError where it is none of this kind."""
        try:
            return _READERS[self.kind](text)
        except (ValueError, IndexError, KeyError) as error:
            raise UsageError(f'invalid value "{text}" for flag -{self.name}: not a {self.kind}') from error

    def empty(self) -> Value:
        if self.default:
            return self.read(self.default)
        if self.kind == "list":
            return []
        return _EMPTY.get(self.kind)


def _read_switch(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(text)


def read_duration(text: str) -> float:
    """Return the seconds of a duration as Go writes it: `5s`, `1m30s`, `1.5h`. Raise ValueError or KeyError."""
    total = 0.0
    number = unit = ""
    for char in text:
        if char.isdigit() or char == ".":
            if unit:
                total += float(number) * _SECONDS[unit]
                number = unit = ""
            number += char
        else:
            unit += char
    return total + float(number) * _SECONDS[unit]


_READERS: dict[str, Callable[[str], Value]] = {
    "switch": _read_switch,
    "text": str,
    "list": str,
    "number": int,
    "duration": read_duration,
}


def parse_flags(
    table: Sequence[Flag], words: Sequence[str], *, interspersed: bool
) -> tuple[dict[str, Value], list[str], int]:
    """Split `words` into the values of the table's flags, by name, and the arguments.

    The number says how many arguments came before `--`, -1 where there was none. With `interspersed`, flags may follow
    arguments; else the first argument ends the flags. `--` always does.
    Raise UsageError with Go's words on a flag that is not in the table or lacks its value.
    """
    rows = {row.name: row for row in table} | {row.short: row for row in table if row.short}
    values = {row.name: row.empty() for row in table}
    arguments: list[str] = []
    separated = -1
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            separated = len(arguments)
            break
        if len(word) < 2 or not word.startswith("-"):
            arguments.append(word)
            if not interspersed:
                break
            continue
        name, equals, text = word.lstrip("-").partition("=") if not word.startswith("---") else ("", "", "")
        if not name:
            raise UsageError(f"bad flag syntax: {word}")
        row = rows.get(name)
        if row is None:
            raise UsageError(f"flag provided but not defined: -{name}")
        if not equals:
            if row.kind == "switch":
                text = "true"
            elif at < len(words):
                text = words[at]
                at += 1
            else:
                raise UsageError(f"flag needs an argument: -{name}")
        value = row.read(text)
        held = values[row.name]
        if isinstance(held, list):
            assert isinstance(value, str)
            held.append(value)
        else:
            values[row.name] = value
    return values, [*arguments, *words[at:]], separated
