"""Reading the configuration: where it is looked for, drop-ins merged, every key checked."""

import os
import tomllib
from dataclasses import fields
from typing import Any

from kata.config.model import (
    BOUNDS,
    CHOICES,
    TABLES,
    AgentConfig,
    Configuration,
    HypervisorConfig,
    RuntimeConfig,
)
from kata.config.place import find_config
from kata.errors import ConfigError


def load_configuration(path: str | None = None) -> Configuration:
    """Read `path`, or the first of the usual places that exists, or nothing: then all is default.

    Files of `config.d/*.toml` beside it are laid over it in order of name. Raise ConfigError that names file and key.
    """
    if path is None:
        path = find_config()
        if path is None:
            return Configuration()
    tables: dict[tuple[str, str], dict[str, Any]] = {names: {} for names in TABLES}
    for file in [path, *_list_drop_ins(path)]:
        _lay_over(tables, file)
    return Configuration(
        HypervisorConfig(**tables["hypervisor", "qemu"]),
        AgentConfig(**tables["agent", "kata"]),
        RuntimeConfig(**tables["runtime", ""]),
        source=path,
    )


def _list_drop_ins(path: str) -> list[str]:
    directory = os.path.join(os.path.dirname(path), "config.d")
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    return [os.path.join(directory, name) for name in names if name.endswith(".toml")]


def _lay_over(tables: dict[tuple[str, str], dict[str, Any]], path: str) -> None:
    for names, content in _list_tables(_read_toml(path), path):
        known = {field.name: field.default for field in fields(TABLES[names])}
        where = "[" + ".".join(name for name in names if name) + "]"
        for key, value in content.items():
            if key not in known:
                raise ConfigError(f"{path}: {where} has no key {key}", hint=_suggest(key, known))
            _check_value(path, f"{where} {key}", key, value, type(known[key]))
            tables[names][key] = value


def _read_toml(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise ConfigError(f"{path}: {error}") from error


def _list_tables(document: dict[str, Any], path: str) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    found: list[tuple[tuple[str, str], dict[str, Any]]] = []
    for first, content in document.items():
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: key {first} stands outside of any table")
        if (first, "") in TABLES:
            found.append(((first, ""), content))
            continue
        for second, inner in content.items():
            if (first, second) not in TABLES:
                known = ["[" + ".".join(name for name in names if name) + "]" for names in TABLES]
                raise ConfigError(f"{path}: unknown table [{first}.{second}]", hint="known are " + ", ".join(known))
            if not isinstance(inner, dict):
                raise ConfigError(f"{path}: [{first}] {second} is a key, where a table [{first}.{second}] is needed")
            found.append(((first, second), inner))
    return found


def _suggest(key: str, known: dict[str, Any]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only on the way to an error

    close = get_close_matches(key, known, n=1)
    return f"did you mean {close[0]}?" if close else "known are " + ", ".join(known)


def _check_value(path: str, where: str, key: str, value: Any, wanted: type) -> None:
    if type(value) is not wanted:
        raise ConfigError(
            f"{path}: {where} is {value!r}, a {type(value).__name__}, where a {wanted.__name__} is needed"
        )
    if key in CHOICES and value not in CHOICES[key]:
        raise ConfigError(f"{path}: {where} is {value!r}", hint="it takes " + ", ".join(CHOICES[key]))
    if isinstance(value, int) and key in BOUNDS:
        low, high = BOUNDS[key]
        if not low <= value <= high:
            raise ConfigError(f"{path}: {where} is {value}", hint=f"it takes {low} to {high}")
