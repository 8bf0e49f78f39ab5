"""Fragments of a kernel configuration: one file per concern, each option in one place.

Format, as in the kernel's own .config: `CONFIG_NAME=value`, `# CONFIG_NAME is not set`, comments, empty lines.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kata.errors import ConfigError, HostError

FRAGMENTS = Path(__file__).with_name("fragments")

_SET = re.compile(r"CONFIG_(?P<name>[A-Za-z0-9_]+)=(?P<value>.+)")
_UNSET = re.compile(r"# CONFIG_(?P<name>[A-Za-z0-9_]+) is not set")
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Option:
    """One wish: `name` without the prefix CONFIG_, `value` as the file spells it, None for "not set"."""

    name: str
    value: str | None
    fragment: str
    line: int

    def __str__(self) -> str:
        wish = f"CONFIG_{self.name}={self.value}" if self.value is not None else f"CONFIG_{self.name} off"
        return f"{wish} ({self.fragment}:{self.line})"


def parse_fragment(text: str, fragment: str) -> list[Option]:
    """Read the text of the file named `fragment`. Raises ConfigError for a line that is neither option nor comment."""
    options = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if match := _SET.fullmatch(line):
            value = None if match["value"] == "n" else match["value"]
            options.append(Option(match["name"], value, fragment, number))
        elif match := _UNSET.fullmatch(line):
            options.append(Option(match["name"], None, fragment, number))
        elif line and not line.startswith("#"):
            raise ConfigError(f"{fragment}:{number} is no kernel option: {line!r}", hint="write CONFIG_NAME=value")
    return options


def read_fragments(files: Iterable[Path]) -> list[Option]:
    try:
        return [option for file in files for option in parse_fragment(file.read_text(), file.name)]
    except OSError as error:
        raise HostError(f"cannot read the kernel fragment {error.filename}: {error.strerror}") from error


def merge_options(options: Iterable[Option]) -> dict[str, Option]:
    """One wish per name. Raises ConfigError when two fragments name the same option: neither knows of the other."""
    merged: dict[str, Option] = {}
    for option in options:
        if other := merged.get(option.name):
            raise ConfigError(
                f"two fragments name the same kernel option: {other} and {option}", hint="keep one of them"
            )
        merged[option.name] = option
    return merged


def override_options(base: dict[str, Option], extra: dict[str, Option]) -> dict[str, Option]:
    """An operator's own fragment wins over ours."""
    return {**base, **extra}


def format_options(options: Iterable[Option]) -> str:
    """The text that Kconfig reads, in order of names."""
    return "".join(
        f"# CONFIG_{option.name} is not set\n" if option.value is None else f"CONFIG_{option.name}={option.value}\n"
        for option in sorted(options, key=lambda option: option.name)
    )


def parse_config(text: str) -> dict[str, str]:
    """The options that a finished .config sets, by name without prefix."""
    matches = (_SET.fullmatch(line) for line in text.splitlines())
    return {match["name"]: match["value"] for match in matches if match}


def check_survival(wishes: Iterable[Option], config: dict[str, str]) -> None:
    """Compare wishes with the finished configuration: Kconfig drops silently what it cannot grant.

    Raises ConfigError that names each lost option and its fragment.
    """
    lost = [option for option in wishes if config.get(option.name) != option.value]
    if not lost:
        return
    shown = "; ".join(f"{option}, is {config.get(option.name, 'off')}" for option in lost[:_SHOWN])
    more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
    raise ConfigError(
        f"the kernel configuration did not keep {len(lost)} options: {shown}{more}",
        hint="a dependency is missing, or another option selects it",
    )
