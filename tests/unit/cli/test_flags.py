"""The flag parser: Go's syntax."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.cli.commands import COMMANDS, GLOBAL_FLAGS
from kata.cli.flags import Flag, parse_flags, read_duration
from kata.errors import UsageError

TABLE = (
    Flag("switch", "switch", "", "s"),
    Flag("text", "text", "", "t", "default"),
    Flag("list", "list", "", "l"),
    Flag("number", "number", ""),
    Flag("duration", "duration", "", default="5s"),
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
ARGUMENTS = TEXTS.filter(lambda text: not text.startswith("-") or text == "-")


def parse(*words: str, interspersed: bool = True) -> tuple[dict[str, object], list[str], int]:
    values, arguments, separated = parse_flags(TABLE, words, interspersed=interspersed)
    return dict(values), arguments, separated


@given(text=TEXTS, items=st.lists(TEXTS), number=st.integers(), switch=st.booleans(), arguments=st.lists(ARGUMENTS))
def test_what_is_given_comes_back_whatever_the_spelling(
    text: str, items: list[str], number: int, switch: bool, arguments: list[str]
) -> None:
    words = ["-text", text] if number % 2 else [f"--t={text}"]
    words += [word for item in items for word in ("-l", item)]
    words += [f"-number={number}", f"--switch={'true' if switch else 'false'}"]
    values, rest, separated = parse(*arguments, *words)
    assert (values["text"], values["list"], values["number"], values["switch"]) == (text, items, number, switch)
    assert rest == arguments
    assert separated == -1


@given(before=st.lists(ARGUMENTS), after=st.lists(TEXTS))
def test_two_dashes_end_the_flags(before: list[str], after: list[str]) -> None:
    assert parse(*before, "--", *after)[1:] == ([*before, *after], len(before))


@given(words=st.lists(TEXTS))
def test_any_words_are_parsed_or_refused_with_a_sentence(words: list[str]) -> None:
    try:
        parse(*words)
    except UsageError as error:
        assert error.message  # noqa: PT017 - either outcome is right


@given(argument=ARGUMENTS, rest=st.lists(TEXTS))
def test_the_first_argument_ends_the_flags_where_a_command_line_follows(argument: str, rest: list[str]) -> None:
    assert parse("-s", argument, *rest, interspersed=False)[1] == [argument, *rest]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nosuch"], "flag provided but not defined: -nosuch"),
        (["-nosuch=1"], "flag provided but not defined: -nosuch"),
        (["--text"], "flag needs an argument: -text"),
        (["--number", "x"], 'invalid value "x" for flag -number: not a number'),
        (["--switch=maybe"], 'invalid value "maybe" for flag -switch: not a switch'),
        (["---text"], "bad flag syntax: ---text"),
        (["--=x"], "bad flag syntax: --=x"),
    ],
)
def test_errors_are_in_the_words_of_go(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*words)
    assert caught.value.message == message


def test_a_switch_takes_no_word_after_it() -> None:
    assert parse("-s", "false")[0]["switch"] is True
    assert parse("-s", "false")[1] == ["false"]


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("1m30s", 90), ("100ms", 0.1), ("1.5h", 5400), ("2us", 2e-6)])
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert read_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "-"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse("--duration", text)


@pytest.mark.parametrize("flags", [GLOBAL_FLAGS, *(command.flags for command in COMMANDS.values())])
def test_no_table_names_a_flag_twice(flags: tuple[Flag, ...]) -> None:
    names = [name for flag in flags for name in (flag.name, flag.short) if name]
    assert len(names) == len(set(names))
