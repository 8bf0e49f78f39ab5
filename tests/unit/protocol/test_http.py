"""HTTP: what is well-formed comes through in any pieces, what is not is refused before it costs anything."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import ProtocolError
from kata.protocol.http import (
    CONTINUE,
    MAX_BODY,
    MAX_HEAD,
    RefusedError,
    Request,
    RequestReader,
    Response,
    ResponseReader,
    encode_request,
    encode_response,
    quote_target,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz-"), min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30)
RESERVED = {"host", "connection", "content-length", "content-type", "transfer-encoding", "expect"}
HEADERS = st.dictionaries(NAMES.filter(lambda name: name not in RESERVED), VALUES, max_size=4)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def read_requests(*pieces: bytes) -> list[Request]:
    reader = RequestReader()
    requests = []
    for piece in pieces:
        reader.feed(piece)
        while (request := reader.next()) is not None:
            requests.append(request)
    return requests


def find_status(data: bytes) -> int:
    with pytest.raises(RefusedError) as caught:
        read_requests(data)
    return caught.value.status


@given(
    path=TEXT.map(lambda text: f"/{text}"),
    query=st.dictionaries(TEXT.filter(bool), TEXT, max_size=4),
    headers=HEADERS,
    body=st.binary(max_size=200),
    cuts=st.lists(st.integers(min_value=0), max_size=5),
)
def test_a_request_is_read_as_it_was_meant_in_whatever_pieces_it_comes(
    path: str, query: dict[str, str], headers: dict[str, str], body: bytes, cuts: list[int]
) -> None:
    data = encode_request("PUT", quote_target(path, query), body=body, headers=headers)

    (request,) = read_requests(*cut(data, cuts))

    assert (request.method, request.path, request.query, request.body) == ("PUT", path, query, body)
    assert headers.items() <= request.headers.items()
    assert request.last


@given(
    status=st.sampled_from([200, 404, 501, 599]),
    headers=HEADERS,
    body=st.binary(max_size=200),
    cuts=st.lists(st.integers(min_value=0), max_size=5),
)
def test_a_response_is_read_as_it_was_sent_in_whatever_pieces_it_comes(
    status: int, headers: dict[str, str], body: bytes, cuts: list[int]
) -> None:
    data = encode_response(Response(status, body, headers), close=False)
    reader = ResponseReader(max_body=200)

    *before, response = [reader.feed(piece) for piece in cut(data, cuts)]

    assert response is not None
    assert not any(before)
    assert (response.status, response.body) == (status, body)
    assert headers.items() <= response.headers.items()


@given(st.binary(max_size=300))
def test_rubbish_is_refused_or_waited_for_and_never_anything_else(data: bytes) -> None:
    try:
        read_requests(data)
    except RefusedError as error:
        assert error.status >= 400  # noqa: PT017 - most rubbish is refused, some is only not whole


@given(st.binary(max_size=300))
def test_a_client_takes_rubbish_for_no_response(data: bytes) -> None:
    reader = ResponseReader(max_body=100)
    with pytest.raises(ProtocolError):
        assert reader.feed(b"HTTP/1.2 " + data) or reader.feed(b"")


def test_requests_on_one_connection_are_read_one_after_the_other() -> None:
    first = b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nxy"
    second = b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n"

    requests = read_requests(first + second)

    assert [(request.path, request.body, request.last) for request in requests] == [
        ("/a", b"xy", False),
        ("/b", b"", False),
    ]


def test_a_client_that_asks_for_leave_to_send_its_body_gets_it_once() -> None:
    reader = RequestReader()
    reader.feed(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")

    assert reader.next() is None
    assert [reader.take_interim(), reader.take_interim()] == [CONTINUE, b""]
    reader.feed(b"xy")
    request = reader.next()
    assert request is not None
    assert request.body == b"xy"


def test_a_client_passes_over_interim_responses() -> None:
    reader = ResponseReader(max_body=10)

    response = reader.feed(CONTINUE + encode_response(Response(200, b"text"), close=True))

    assert response is not None
    assert response.body == b"text"


def test_a_body_over_the_limit_is_refused_before_it_comes() -> None:
    head = f"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n"

    assert find_status(head.encode()) == 413


def test_a_head_without_end_is_refused_at_the_limit() -> None:
    assert find_status(b"GET / HTTP/1.1\r\nHost: " + b"x" * MAX_HEAD) == 431


def test_a_response_over_the_limit_is_refused() -> None:
    with pytest.raises(ProtocolError, match="over the limit of 10"):
        ResponseReader(max_body=10).feed(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 11)


def test_a_response_that_is_cut_off_is_no_response() -> None:
    reader = ResponseReader(max_body=10)
    reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nxy")

    with pytest.raises(ProtocolError, match="2 of 5"):
        reader.feed(b"")


def test_a_response_without_length_ends_with_the_connection() -> None:
    reader = ResponseReader(max_body=10)

    assert reader.feed(b"HTTP/1.0 200 OK\r\n\r\nxy") is None
    assert reader.feed(b"") == Response(200, b"xy")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2\r\nHost: h\r\n\r\n", 505),
        (b"GET nowhere HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /%ff HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: tea\r\n\r\n", 417),
    ],
)
def test_what_two_readers_could_take_for_two_things_is_refused(request_bytes: bytes, status: int) -> None:
    assert find_status(request_bytes) == status


def test_a_target_may_name_the_host_too() -> None:
    (request,) = read_requests(b"GET http://shim/metrics?a=b%20c+d HTTP/1.1\r\nHost: shim\r\n\r\n")

    assert (request.path, request.query) == ("/metrics", {"a": "b c d"})


def test_an_old_client_gets_its_connection_closed_unless_it_asks_not_to() -> None:
    old = b"GET / HTTP/1.0\r\n\r\n"
    kept = b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"

    assert [request.last for request in read_requests(old, kept)] == [True, False]


def test_a_response_that_has_no_content_ends_with_its_head() -> None:
    reader = ResponseReader(max_body=100)
    response = reader.feed(b"HTTP/1.1 204 \r\nServer: x\r\nConnection: keep-alive\r\n\r\n")
    assert response is not None
    assert (response.status, response.body) == (204, b"")
