"""Kernel configuration fragments: reading, merging, and whether Kconfig kept them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import ConfigError
from kata.image.kernel.fragment import (
    FRAGMENTS,
    Option,
    check_survival,
    format_options,
    merge_options,
    override_options,
    parse_config,
    parse_fragment,
    read_fragments,
)

_names = st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True)
_values = st.one_of(st.none(), st.sampled_from(["y", "256", "0x0", '"landlock"']))
_wishes = st.dictionaries(_names, _values, max_size=20)


def _options(wishes: dict[str, str | None]) -> list[Option]:
    return [Option(name, value, "test.config", 1) for name, value in wishes.items()]


@given(_wishes)
def test_formatted_options_read_back_as_they_were(wishes: dict[str, str | None]) -> None:
    read = parse_fragment(format_options(_options(wishes)), "test.config")

    assert {option.name: option.value for option in read} == wishes


@given(_wishes)
def test_a_configuration_that_keeps_every_wish_passes(wishes: dict[str, str | None]) -> None:
    check_survival(_options(wishes), parse_config(format_options(_options(wishes))))


def test_off_is_spelt_in_two_ways() -> None:
    spelt = parse_fragment("CONFIG_KSM=n\n# CONFIG_ZSWAP is not set\n", "memory.config")

    assert [(option.name, option.value, option.line) for option in spelt] == [("KSM", None, 1), ("ZSWAP", None, 2)]


def test_a_line_that_is_no_option_is_refused_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"net\.config:2"):
        parse_fragment("CONFIG_NET=y\nNET_NS=y\n", "net.config")


def test_an_option_in_two_fragments_is_refused_naming_both() -> None:
    options = [Option("NET", "y", "net.config", 1), Option("NET", "y", "base.config", 7)]

    with pytest.raises(ConfigError, match=r"net\.config:1.*base\.config:7"):
        merge_options(options)


def test_an_operators_fragment_wins_over_ours() -> None:
    ours = merge_options([Option("KSM", None, "memory.config", 1), Option("NET", "y", "net.config", 1)])
    theirs = merge_options([Option("KSM", "y", "mine.config", 1)])

    assert {name: option.value for name, option in override_options(ours, theirs).items()} == {"KSM": "y", "NET": "y"}


def test_a_lost_option_is_named_with_its_fragment() -> None:
    with pytest.raises(ConfigError, match=r"CONFIG_VIRTIO_MEM=y \(virtio\.config:9\), is off"):
        check_survival([Option("VIRTIO_MEM", "y", "virtio.config", 9)], parse_config("CONFIG_VIRTIO=y\n"))


def test_an_option_that_comes_back_on_is_named() -> None:
    with pytest.raises(ConfigError, match=r"CONFIG_NLS off \(fs\.config:3\), is y"):
        check_survival([Option("NLS", None, "fs.config", 3)], parse_config("CONFIG_NLS=y\n"))


def test_our_own_fragments_agree_with_each_other() -> None:
    files = sorted(FRAGMENTS.glob("*.config"))

    options = merge_options(read_fragments(files))

    assert {"VIRTIO_PCI", "VIRTIO_FS", "EROFS_FS", "CGROUP_BPF", "PVH", "VSOCKETS"} <= set(options)


def test_each_of_our_fragments_says_what_it_is_for() -> None:
    silent = [file.name for file in FRAGMENTS.glob("*.config") if not file.read_text().startswith("# ")]

    assert silent == []
