"""Reading the configuration: where it is looked for, drop-ins merged, every key checked."""

import os
import tomllib
from typing import Any, NoReturn

from kata.config.combination import list_findings
from kata.config.constraint import check_type
from kata.config.model import (
    DEFAULT_DRIVER,
    DRIVERS,
    OTHER_DRIVERS,
    AgentConfig,
    Configuration,
    FactoryConfig,
    HypervisorConfig,
    Remark,
    RuntimeConfig,
)
from kata.config.place import find_config
from kata.errors import ConfigError

_MODELS: dict[str, type[HypervisorConfig | AgentConfig | RuntimeConfig | FactoryConfig]] = {
    "hypervisor": HypervisorConfig,
    "agent": AgentConfig,
    "runtime": RuntimeConfig,
    "factory": FactoryConfig,
}
_AGENTS = ("kata",)
_LONGEST = 1 << 20
_ALIASES = {("agent", "create_container_timeout"): "runtime"}
"""Keys that upstream's two runtimes have in different tables, and the one that has it here."""


def load_configuration(path: str | None = None) -> Configuration:
    """Read `path`, or the first of the usual places that exists, or nothing: then all is default.

    Files of `config.d/*.toml` beside it are laid over it in order of name. Raise ConfigError that names file, line and
    key. What is understood and has no effect becomes one of the `remarks`.
    """
    if path is None:
        path = find_config()
        if path is None:
            return Configuration()
    reading = _Reading()
    for file in [path, *_list_drop_ins(path)]:
        reading.lay_over(file)
    return reading.finish(path)


def _list_drop_ins(path: str) -> list[str]:
    directory = os.path.join(os.path.dirname(path), "config.d")
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [os.path.join(directory, name) for name in names if name.endswith(".toml")]


class _Reading:
    """What the files say so far, and which of them said it."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, Any]] = {}
        self._origins: dict[tuple[str, str], tuple[str, str]] = {}
        self._remarks: dict[str, Remark] = {}
        self._texts: dict[str, str] = {}
        self._tables: dict[str, str] = {}

    def lay_over(self, path: str) -> None:
        self._texts[path], document = _read_toml(path)
        for first, content in document.items():
            if first not in _MODELS:
                self._refuse_table(path, first, is_table=isinstance(content, dict))
            if not isinstance(content, dict):
                self._fail(path, first, "", "is a key, where a table is needed")
            if first in ("runtime", "factory"):
                self._take_table(path, first, first, content)
                continue
            for second, inner in content.items():
                name = f"{first}.{second}"
                if second not in ((*DRIVERS, *OTHER_DRIVERS) if first == "hypervisor" else _AGENTS):
                    self._refuse_table(path, name, is_table=isinstance(inner, dict))
                if not isinstance(inner, dict):
                    self._fail(path, name, "", "is a key, where a table is needed")
                if first == "hypervisor":
                    self._tables.setdefault(second, path)
                self._take_table(path, first, name, inner)

    def _take_table(self, path: str, kind: str, table: str, content: dict[str, Any]) -> None:
        model = _MODELS.get(kind)
        known = model._field_defaults if model else {}
        for key, value in content.items():
            owner = _ALIASES.get((kind, key), kind)
            if key in known or owner != kind:
                place = _name_values(table) if owner == kind else owner
                checked = self._check_known(path, table, _MODELS[owner], key, value)
                self._values.setdefault(place, {})[key] = checked
                self._origins[place, key] = path, table
            else:
                self._take_foreign(path, kind, table, key, value)

    def _check_known(self, path: str, table: str, model: type[Any], key: str, value: Any) -> Any:
        default = model._field_defaults[key]
        wanted = "list" if type(default) is tuple else type(default).__name__
        try:
            check_type(value, wanted)
            for constraint in getattr(model.__annotations__[key], "__metadata__", ()):
                constraint.check(value)
        except ConfigError as error:
            self._fail(path, table, key, error.message, error.hint)
        return tuple(value) if wanted == "list" else value

    def _take_foreign(self, path: str, kind: str, table: str, key: str, value: Any) -> None:
        from kata.config.foreign import TABLES  # noqa: PLC0415 - not for a file that has our options only

        if isinstance(value, dict):
            for inner, innermost in value.items():
                self._take_foreign(path, kind, table, f"{key}.{inner}", innermost)
            return
        option = TABLES[kind].get(key)
        if option is None:
            self._refuse_key(path, kind, table, key)
        if option.kind != "list" or not isinstance(value, list):
            try:
                check_type(value, option.kind)
            except ConfigError as error:
                self._fail(path, table, key, error.message, error.hint)
        self._remarks.pop(f"[{table}] {key}", None)
        if value in option.same or table.partition(".")[2] in OTHER_DRIVERS:
            return
        if option.is_vital:
            self._fail(path, table, key, f"is {value!r}, which cannot be had: {option.reason}", "remove it")
        self._remark(path, table, key, option.reason)

    def finish(self, source: str) -> Configuration:
        """Put it together. Raise ConfigError for values that exclude each other, and for a VMM without a driver."""
        driver = self._choose_driver()
        place = f"hypervisor.{driver}"
        config = Configuration(
            HypervisorConfig(**self._values.get(place, {})),
            AgentConfig(**self._values.get("agent", {})),
            RuntimeConfig(**self._values.get("runtime", {})),
            FactoryConfig(**self._values.get("factory", {})),
            source=source,
            driver=driver,
        )
        for finding in list_findings(config):
            path, table = self._origins[place if finding.kind == "hypervisor" else finding.kind, finding.key]
            if finding.hint:
                self._fail(path, table, finding.key, finding.text, finding.hint)
            self._remark(path, table, finding.key, finding.text)
        return config._replace(remarks=tuple(self._remarks.values()))

    def _choose_driver(self) -> str:
        """Return the driver that is named, or the only one that has a table."""
        named = self._values.get("runtime", {}).get("hypervisor_name", "")
        having = {name: DRIVERS[name] for name in self._tables if name in DRIVERS}
        found = [*dict.fromkeys(having.values())]
        if not named and len(found) > 1:
            name = next(name for name in having if having[name] != found[0])
            hint = "say in [runtime] hypervisor_name which is to be used"
            self._fail(self._tables[name], f"hypervisor.{name}", "", f"stands beside one for {found[0]}", hint)
        driver = DRIVERS[named] if named else found[0] if found else DEFAULT_DRIVER
        for name, path in self._tables.items():
            table = f"hypervisor.{name}"
            if name in DRIVERS:
                if DRIVERS[name] != driver:
                    self._remark(path, table, "", f"hypervisor_name is {named}")
                continue
            if not found:
                self._fail(path, table, "", "is of a hypervisor without a driver", f"use [hypervisor.{DEFAULT_DRIVER}]")
            self._remark(path, table, "", "there is no driver for this hypervisor")
        return driver

    def _remark(self, path: str, table: str, key: str, reason: str) -> None:
        name = f"[{table}] {key}".strip()
        self._remarks[name] = Remark(self._place(path, table, key), name, reason)

    def _place(self, path: str, table: str, key: str) -> str:
        from kata.config.position import find_line  # noqa: PLC0415 - only where something is wrong

        line = find_line(self._texts[path], table, *([key] if key else []))
        return f"{path}:{line}" if line else path

    def _fail(self, path: str, table: str, key: str, problem: str, hint: str | None = None) -> NoReturn:
        raise ConfigError(f"{self._place(path, table, key)}: {f'[{table}] {key}'.strip()} {problem}", hint=hint)

    def _refuse_table(self, path: str, name: str, *, is_table: bool) -> NoReturn:
        if not is_table and "." not in name:
            raise ConfigError(f"{self._place(path, name, '')}: key {name} stands outside of any table")
        known = [f"hypervisor.{driver}" for driver in (*DRIVERS, *OTHER_DRIVERS)]
        known += [*(f"agent.{agent}" for agent in _AGENTS), "runtime", "factory"]
        self._fail(path, name, "", "is no table of a configuration", _suggest(name, known))

    def _refuse_key(self, path: str, kind: str, table: str, key: str) -> NoReturn:
        from kata.config.foreign import TABLES  # noqa: PLC0415 - only on the way to an error

        known = {name: [*(_MODELS[name]._fields if name in _MODELS else ()), *TABLES[name]] for name in TABLES}
        elsewhere = [name for name, keys in known.items() if key in keys]
        hint = f"it belongs into the table {elsewhere[0]}" if elsewhere else _suggest(key, known[kind])
        self._fail(path, table, key, "is no option", hint)


def _name_values(table: str) -> str:
    """Return what the values of a table are kept by: two tables of one driver's are one."""
    kind, _, name = table.partition(".")
    return f"{kind}.{DRIVERS.get(name, name)}" if kind == "hypervisor" else kind


def _read_toml(path: str) -> tuple[str, dict[str, Any]]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read(_LONGEST)
        return text, tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise ConfigError(f"{path}: {error}") from error


def _suggest(key: str, known: list[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only on the way to an error

    close = get_close_matches(key, known, n=1)
    return f"did you mean {close[0]}?" if close else "known are " + ", ".join(known)
