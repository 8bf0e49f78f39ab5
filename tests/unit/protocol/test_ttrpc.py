"""The ttrpc engines: bytes in any portions, and peers that do not keep to the protocol."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import Code, KataError, ProtocolError
from kata.protocol.messages.agent import ReadStreamResponse
from kata.protocol.ttrpc.engine import ClientEngine, ServerEngine
from kata.protocol.ttrpc.frame import MAX_PAYLOAD, PORTION, Frame, FrameDecoder, Kind
from kata.protocol.ttrpc.messages import Request, Response, Status

frames = st.builds(Frame, st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=60))


def frame_request(stream: int, *, kind: int = Kind.REQUEST) -> bytes:
    return Frame(stream, kind, 0, Request(service="s", method="m", payload=b"p").encode()).encode()


@given(sent=st.lists(frames, max_size=6), step=st.integers(1, 40))
def test_where_the_bytes_are_cut_does_not_matter(sent: list[Frame], step: int) -> None:
    wire = b"".join(frame.encode() for frame in sent)
    decoder = FrameDecoder()

    received = [frame for at in range(0, len(wire), step) for frame in decoder.feed(wire[at : at + step])]

    assert received == sent


@given(
    sizes=st.lists(st.sampled_from([0, 1, PORTION - 1, PORTION, 3 * PORTION]), max_size=4),
    step=st.integers(1000, 90000),
)
def test_frames_received_into_the_decoders_memory_are_those_sent(sizes: list[int], step: int) -> None:
    sent = [Frame(number, 1, 0, bytes([number + 1]) * size) for number, size in enumerate(sizes)]
    wire = memoryview(b"".join(frame.encode() for frame in sent))
    decoder = FrameDecoder()

    received = []
    while wire:
        buffer = decoder.get_buffer()
        part = wire[: min(step, len(buffer))]
        buffer[: len(part)] = part
        received += decoder.advance(len(part))
        wire = wire[len(part) :]

    assert received == sent


def test_a_large_payload_is_sent_as_it_is_and_arrives_in_the_memory_it_was_received_into() -> None:
    output = bytes(PORTION)
    parts = ServerEngine.respond_parts(5, ReadStreamResponse(data=output).encode_parts())
    [answer] = ClientEngine().receive(b"".join(parts))

    assert any(part is output for part in parts)
    data = ReadStreamResponse.decode(answer.payload).data
    assert isinstance(data, memoryview)
    assert data.obj is memoryview(answer.payload).obj
    assert data == output


def test_an_oversized_frame_is_refused_before_its_payload_arrives() -> None:
    header = struct.pack(">IIBB", MAX_PAYLOAD + 1, 7, Kind.REQUEST, 0)

    with pytest.raises(ProtocolError, match=f"{MAX_PAYLOAD + 1} bytes on stream 7"):
        FrameDecoder().feed(header)


def test_a_frame_of_exactly_the_limit_passes() -> None:
    [frame] = FrameDecoder().feed(Frame(1, Kind.REQUEST, 0, bytes(MAX_PAYLOAD)).encode())

    assert len(frame.payload) == MAX_PAYLOAD


def test_an_unfinished_header_waits_for_its_rest() -> None:
    decoder = FrameDecoder()
    wire = Frame(1, Kind.RESPONSE, 0, b"x").encode()

    assert decoder.feed(wire[:9]) == []
    assert decoder.feed(wire[9:]) == [Frame(1, Kind.RESPONSE, 0, b"x")]


def test_a_client_numbers_its_streams_with_rising_odd_numbers() -> None:
    client = ClientEngine()

    assert [client.request("s", "m", b"", None)[0] for _ in range(3)] == [1, 3, 5]


def test_a_call_arrives_as_it_was_sent_with_its_timeout_in_seconds() -> None:
    stream, wire = ClientEngine().request("grpc.AgentService", "Exec", b"\x00body", 2.5)

    [call] = ServerEngine().receive(wire)

    assert call == (stream, "grpc.AgentService", "Exec", b"\x00body", 2.5)


def test_a_call_without_a_timeout_has_none_at_the_server() -> None:
    [call] = ServerEngine().receive(ClientEngine().request("s", "m", b"", None)[1])

    assert call.timeout is None


@pytest.mark.parametrize("streams", [(2,), (0,), (1, 1), (3, 1), (1, 2)])
def test_a_server_refuses_stream_ids_that_are_even_or_do_not_rise(streams: tuple[int, ...]) -> None:
    server = ServerEngine()
    for stream in streams[:-1]:
        server.receive(frame_request(stream))

    with pytest.raises(ProtocolError, match=f"stream id {streams[-1]}"):
        server.receive(frame_request(streams[-1]))


@pytest.mark.parametrize("kind", [0, Kind.RESPONSE, Kind.DATA, 200])
def test_a_server_refuses_frames_that_are_no_request(kind: int) -> None:
    with pytest.raises(ProtocolError, match=f"kind {int(kind)} on stream 1"):
        ServerEngine().receive(frame_request(1, kind=kind))


def test_a_client_refuses_frames_that_are_no_response() -> None:
    with pytest.raises(ProtocolError, match="kind 3 on stream 1"):
        ClientEngine().receive(Frame(1, Kind.DATA, 0, b"").encode())


def test_a_response_arrives_with_its_payload() -> None:
    [answer] = ClientEngine().receive(ServerEngine.respond(5, b"result"))

    assert answer == (5, Code.OK, "", b"result")


def test_a_refusal_arrives_with_its_code_and_sentence() -> None:
    [answer] = ClientEngine().receive(ServerEngine.refuse(5, Code.NOT_FOUND, "no container c1"))

    assert answer == (5, Code.NOT_FOUND, "no container c1", b"")


def test_a_response_with_an_explicit_ok_is_no_refusal() -> None:
    wire = Frame(1, Kind.RESPONSE, 0, Response(status=Status(code=0), payload=b"x").encode()).encode()

    assert ClientEngine().receive(wire)[0].code == Code.OK


def test_a_request_over_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(KataError, match="over ttrpc's limit"):
        ClientEngine().request("s", "m", bytes(MAX_PAYLOAD), None)


def test_a_response_over_the_limit_becomes_a_refusal() -> None:
    [answer] = ClientEngine().receive(ServerEngine.respond(1, bytes(MAX_PAYLOAD)))

    assert answer.code == Code.RESOURCE_EXHAUSTED


@given(wire=st.binary(max_size=120))
def test_random_bytes_are_frames_or_a_protocol_error(wire: bytes) -> None:
    for engine in (ClientEngine(), ServerEngine()):
        with contextlib.suppress(ProtocolError):
            engine.receive(wire)


def test_on_a_shared_stream_the_first_stream_id_again_is_a_new_client() -> None:
    server = ServerEngine(shared=True)
    server.receive(frame_request(1) + frame_request(3))

    calls = server.receive(frame_request(5) + frame_request(1) + frame_request(3))

    assert [call.stream for call in calls] == [1, 3]
    assert server.clients == 2


def test_a_server_that_streams_returns_the_messages_of_a_call_after_it_and_the_word_that_no_more_come() -> None:
    engine = ServerEngine(streaming=True)
    sent = [Frame(1, Kind.DATA, 0, b"one"), Frame(1, Kind.DATA, 0, b""), Frame(1, Kind.DATA, 5, b"")]
    calls = engine.receive(frame_request(1) + b"".join(frame.encode() for frame in sent))

    assert [call.stream for call in calls] == [1]
    found = [
        (data.stream, None if data.payload is None else bytes(data.payload), data.last) for data in engine.take_data()
    ]
    assert found == [(1, b"one", False), (1, b"", False), (1, None, True)]
    assert engine.take_data() == []


def test_a_message_of_a_call_that_never_began_is_refused() -> None:
    engine = ServerEngine(streaming=True)
    engine.receive(frame_request(1))

    with pytest.raises(ProtocolError, match="kind 3"):
        engine.receive(Frame(3, Kind.DATA, 0, b"").encode())


def test_messages_to_a_client_and_their_end_have_the_flags_that_it_knows() -> None:
    frames = FrameDecoder().feed(ServerEngine.send(7, b"one") + ServerEngine.end(7))

    assert [(frame.kind, frame.flags, bytes(frame.payload)) for frame in frames] == [(3, 0, b"one"), (3, 5, b"")]
