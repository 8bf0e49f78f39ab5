import json
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import ProtocolError, StateError
from kata.protocol.qmp import MAX_LINE, Answer, Event, Greeting, Message, Phase, QmpEngine, Refusal

GREETING = (
    b'{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"},'
    b' "capabilities": ["oob"]}}\r\n'
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def open_engine() -> QmpEngine:
    engine = QmpEngine()
    engine.receive(GREETING)
    number, _ = engine.negotiate()
    engine.receive(json.dumps({"return": {}, "id": number}).encode() + b"\n")
    return engine


def test_the_greeting_tells_the_version() -> None:
    engine = QmpEngine()
    assert engine.receive(GREETING) == [Greeting((7, 2, 22), "Debian", ("oob",))]
    assert engine.phase is Phase.NEGOTIATING


def test_a_command_before_negotiation_is_refused() -> None:
    engine = QmpEngine()
    with pytest.raises(StateError, match="query-status"):
        engine.encode("query-status")
    engine.receive(GREETING)
    with pytest.raises(StateError, match="query-status"):
        engine.encode("query-status")


def test_a_session_negotiates_once() -> None:
    engine = open_engine()
    assert engine.phase is Phase.READY
    with pytest.raises(StateError):
        engine.negotiate()


def test_answers_find_their_commands_in_any_order() -> None:
    engine = open_engine()
    first, _ = engine.encode("stop")
    second, _ = engine.encode("query-status")
    lines = [{"return": {"status": "paused"}, "id": second}, {"error": {"class": "A", "desc": "b"}, "id": first}]
    messages = engine.receive("".join(json.dumps(line) + "\r\n" for line in lines).encode())
    assert messages == [Answer(second, {"status": "paused"}), Refusal(first, "A", "b")]


def test_a_refusal_without_a_number_is_reported() -> None:
    message = engine_receives(b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n')
    assert message == [Refusal(None, "GenericError", "JSON parse error")]


def engine_receives(data: bytes) -> list[Message]:
    return open_engine().receive(data)


def test_an_event_has_its_data_and_time() -> None:
    line = b'{"event": "SHUTDOWN", "data": {"guest": true}, "timestamp": {"seconds": 5, "microseconds": 500000}}\n'
    assert engine_receives(line) == [Event("SHUTDOWN", {"guest": True}, 5.5)]


@given(name=st.text(), arguments=st.dictionaries(st.text(), json_values, max_size=4))
def test_a_command_is_one_line_of_json_whatever_it_says(name: str, arguments: dict[str, Any]) -> None:
    number, line = open_engine().encode(name, arguments)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    expected = {"execute": name, "id": number} | ({"arguments": arguments} if arguments else {})
    assert json.loads(line) == expected


@given(values=st.lists(json_values, max_size=5), cuts=st.lists(st.integers(0, 4000), max_size=8))
def test_however_the_stream_is_cut_the_messages_are_the_same(values: list[Any], cuts: list[int]) -> None:
    engine = open_engine()
    numbers = [engine.encode("x")[0] for _ in values]
    lines = [{"return": value, "id": number} for value, number in zip(values, numbers, strict=True)]
    stream = "".join(json.dumps(line) + "\r\n" for line in lines).encode()
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    got = [message for low, high in pairwise(edges) for message in engine.receive(stream[low:high])]
    assert got == [Answer(number, value) for number, value in zip(numbers, values, strict=True)]


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_break_the_protocol(data: bytes) -> None:
    with suppress(ProtocolError):
        engine_receives(data + b"\n")


@given(json_values)
def test_no_json_does_more_than_break_the_protocol(value: Any) -> None:
    for message in (value, {"return": value}, {"id": value, "return": 1}, {"event": value, "timestamp": value}):
        for engine in (QmpEngine(), open_engine()):
            with suppress(ProtocolError):
                engine.receive(json.dumps(message).encode() + b"\n")


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b"[" * 100_000 + b"\n",
        b'{"return": {}, "id": 77}\n',
        b'{"return": {}}\n',
        b'{"QMP": {"version": {"qemu": {"major": 1e999}}}}\n',
        GREETING,
    ],
)
def test_what_no_server_says_breaks_the_protocol(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        engine_receives(line)


def test_an_answer_before_the_greeting_breaks_the_protocol() -> None:
    with pytest.raises(ProtocolError, match="before it greeted"):
        QmpEngine().receive(b'{"return": {}, "id": 1}\n')


def test_an_answer_is_taken_once() -> None:
    engine = open_engine()
    number, _ = engine.encode("stop")
    answer = json.dumps({"return": {}, "id": number}).encode() + b"\n"
    engine.receive(answer)
    with pytest.raises(ProtocolError, match="not asked"):
        engine.receive(answer)


def test_an_endless_line_is_refused_before_it_fills_memory() -> None:
    engine = open_engine()
    for _ in range(MAX_LINE // 65536):
        engine.receive(b"x" * 65536)
    with pytest.raises(ProtocolError, match="line of more than"):
        engine.receive(b"x")
