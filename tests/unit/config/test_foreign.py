"""Upstream's options that have no effect: none of them is dropped without a word."""

from pathlib import Path
from typing import Any

import pytest

from kata.config.foreign import TABLES, Foreign
from kata.config.load import load_configuration
from kata.config.model import AgentConfig, HypervisorConfig, RuntimeConfig
from kata.errors import ConfigError

_NAMES = {"hypervisor": "hypervisor.qemu", "agent": "agent.kata"}
_OTHER: dict[str, Any] = {"bool": True, "int": 77, "float": 7.5, "str": "other", "list": ["other"]}
_OPTIONS = [(_NAMES.get(kind, kind), key, option) for kind, table in TABLES.items() for key, option in table.items()]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: with one a test, hundreds of them would be made and removed."""
    return tmp_path_factory.mktemp("foreign")


def _load(directory: Path, table: str, key: str, value: Any) -> list[str]:
    path = directory / "configuration.toml"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    path.write_text(f"[{table}]\n{key} = {text}\n")
    return [str(remark) for remark in load_configuration(str(path)).remarks]


def _find_other(option: Foreign) -> Any:
    return next((value for value in (_OTHER[option.kind], False) if value not in option.same), None)


@pytest.mark.parametrize(("table", "key", "option"), _OPTIONS)
def test_an_option_without_effect_is_listed_with_file_line_and_reason_or_refused(
    directory: Path, table: str, key: str, option: Foreign
) -> None:
    other = _find_other(option)
    if other is None:
        return
    if option.is_vital:
        with pytest.raises(ConfigError, match=r"configuration\.toml:2: .* cannot be had"):
            _load(directory, table, key, other)
    else:
        assert _load(directory, table, key, other) == [
            f"{directory}/configuration.toml:2: [{table}] {key}: {option.reason}"
        ]


@pytest.mark.parametrize(("table", "key", "option"), _OPTIONS)
def test_what_this_runtime_does_anyway_is_accepted_without_a_word(
    directory: Path, table: str, key: str, option: Foreign
) -> None:
    for value in option.same:
        assert _load(directory, table, key, value) == []


@pytest.mark.parametrize(("table", "key", "option"), _OPTIONS)
def test_an_option_without_effect_has_a_type_all_the_same(
    directory: Path, table: str, key: str, option: Foreign
) -> None:
    wrong = 1 if option.kind in ("str", "bool", "list") else "1"
    with pytest.raises(ConfigError, match=r"configuration\.toml:2: .* is needed"):
        _load(directory, table, key, wrong)


def test_no_option_is_both_known_and_without_effect() -> None:
    models: dict[str, Any] = {"hypervisor": HypervisorConfig, "agent": AgentConfig, "runtime": RuntimeConfig}
    assert not [key for kind, model in models.items() for key in model._fields if key in TABLES[kind]]


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("hypervisor.qemu", "confidential_guest", True),
        ("hypervisor.qemu", "sev_snp_guest", True),
        ("hypervisor.qemu", "kernel_verity_params", "root_hash=ab"),
        ("hypervisor.qemu", "disable_guest_selinux", False),
        ("agent.kata", "policy", "package agent_policy"),
        ("runtime", "experimental", ["force_guest_pull"]),
    ],
)
def test_protection_that_cannot_be_had_is_an_error_and_not_left_out(
    directory: Path, table: str, key: str, value: Any
) -> None:
    with pytest.raises(ConfigError, match="cannot be had"):
        _load(directory, table, key, value)
