"""Mount options in words."""

from hypothesis import given
from hypothesis import strategies as st

from kata.agent.storage import find_option
from kata.sys import linux
from kata.sys.mountoption import parse_options


def test_words_become_flags_and_the_rest_stays_data() -> None:
    flags, data = parse_options(["ro", "nodev", "size=1m", "mode=1777"])

    assert flags == linux.MS_RDONLY | linux.MS_NODEV
    assert data == "size=1m,mode=1777"


def test_the_last_word_counts() -> None:
    assert parse_options(["ro", "rw"])[0] == 0
    assert parse_options(["nosuid", "suid", "nosuid"])[0] == linux.MS_NOSUID


@given(words=st.lists(st.from_regex(r"[a-z]+=[a-z0-9:]+", fullmatch=True)))
def test_what_is_no_flag_keeps_its_order(words: list[str]) -> None:
    assert parse_options(words) == (0, ",".join(words))


def test_a_value_is_found_among_options_joined_or_not() -> None:
    assert find_option(["pagesize=2097152,size=4"], "size") == "4"
    assert find_option(["fsgid=7"], "fsgid") == "7"
    assert find_option(["size"], "size") is None
