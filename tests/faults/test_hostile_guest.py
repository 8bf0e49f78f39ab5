"""A guest that was taken over can say anything on its wire. The host stays bounded, correct and able to clear up."""

import asyncio
import os
import resource
import socket
import struct
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faults.hostile import answer, open_guest, send
from kata.errors import Code, DeadlineError, GuestError, KataError, ProtocolError
from kata.protocol.messages import agent, inspect
from kata.protocol.ttrpc.engine import Call, ServerEngine
from kata.protocol.ttrpc.frame import MAX_PAYLOAD
from kata.sandbox.attach import Attachment
from kata.sandbox.guest import LOST_STATUS, Guest
from kata.sandbox.process import GuestProcess
from kata.sandbox.procview import format_stat, format_status
from kata.sandbox.stats import describe_stats
from kata.sandbox.stdio import Stdio

HEADER = struct.Struct(">IIBB")  # length, stream, kind, flags
RESPONSE = 2


async def fail(guest: Guest, kind: type[KataError] = ProtocolError) -> str:
    with pytest.raises(kind) as caught:
        await guest.start_container("c")
    return str(caught.value)


# Frames


async def test_an_oversized_frame_ends_the_connection_before_its_payload_arrives(tmp_path: Path) -> None:
    async with open_guest(tmp_path, send(HEADER.pack(MAX_PAYLOAD + 1, 1, RESPONSE, 0))) as guest:
        assert "over the limit" in await fail(guest)
        # Nobody waits on a connection that is gone.
        assert "over the limit" in await fail(guest)


async def test_a_frame_of_four_gibibytes_allocates_nothing(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with open_guest(tmp_path, send(HEADER.pack(0xFFFFFFFF, 1, RESPONSE, 0) + bytes(1000))) as guest:
        await fail(guest)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10


@pytest.mark.parametrize("kind", [0, 1, 3, 255])
async def test_a_frame_of_a_kind_that_no_server_sends_ends_the_connection(tmp_path: Path, kind: int) -> None:
    async with open_guest(tmp_path, send(HEADER.pack(0, 1, kind, 0))) as guest:
        await fail(guest)


async def test_answers_to_calls_that_nobody_made_are_dropped(tmp_path: Path) -> None:
    async def play(call: Call, writer: asyncio.StreamWriter) -> None:
        for stream in (call.stream + 2, call.stream - 1, 0, 0x7FFFFFFF):
            writer.write(ServerEngine.refuse(stream, Code.NOT_FOUND, "not for you"))
        writer.write(ServerEngine.respond(call.stream, b"") * 2)

    async with open_guest(tmp_path, play) as guest:
        await guest.start_container("c")
        await guest.start_container("c")
        assert not guest.client._waiting


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(min_size=1, max_size=300))
def test_garbage_in_an_answer_is_a_protocol_error_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes
) -> None:
    async def run() -> None:
        directory = tmp_path_factory.mktemp("garbage")
        async with open_guest(directory, send(HEADER.pack(len(garbage), 1, RESPONSE, 0) + garbage)) as guest:
            try:
                await guest.wait_process("c", "")
            except KataError:
                return

    asyncio.run(asyncio.wait_for(run(), 5))


# Answers that are too large, too many, or never come


async def test_an_agent_that_never_answers_costs_the_time_limit_and_no_more(tmp_path: Path) -> None:
    async with open_guest(tmp_path, send(b"")) as guest:
        began = time.monotonic()
        with pytest.raises(DeadlineError, match="did not answer SignalProcess"):
            await guest.signal_process("c", "", 9, timeout=0.2)
        assert time.monotonic() - began < 2
        assert not guest.client._waiting, "an answer is still expected"


async def test_a_guest_that_sends_without_end_is_cut_off(tmp_path: Path) -> None:
    async def play(_: Call, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(HEADER.pack(MAX_PAYLOAD, 99, RESPONSE, 0) + bytes(MAX_PAYLOAD // 4))
            await writer.drain()

    async with open_guest(tmp_path, play) as guest:
        with pytest.raises(KataError):
            await guest.stat_container("c")


async def test_more_output_than_was_asked_for_is_refused(tmp_path: Path) -> None:
    async with open_guest(tmp_path, answer(agent.ReadStreamResponse(data=bytes(1000)).encode())) as guest:
        with pytest.raises(GuestError, match="more than the 999 asked for"):
            await guest.read_stream("c", "", "Stdout", 999)


@pytest.mark.parametrize("status", [-1, 256, 0x7FFFFFFF, -0x80000000])
async def test_an_exit_code_that_no_process_has_is_refused(tmp_path: Path, status: int) -> None:
    async with open_guest(tmp_path, answer(agent.WaitProcessResponse(status=status).encode())) as guest:
        with pytest.raises(GuestError, match="exit code"):
            await guest.wait_process("c", "")


@pytest.mark.parametrize("code", [-1, 17, 99999])
async def test_a_status_code_that_does_not_exist_is_a_refusal_like_any_other(tmp_path: Path, code: int) -> None:
    async def play(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(ServerEngine.refuse(call.stream, code, "no\n\x1b[31m"))

    async with open_guest(tmp_path, play) as guest:
        await fail(guest, GuestError)


# A process whose guest is hostile


async def run_process(tmp_path: Path, play: object) -> tuple[int, bytes]:
    """Follow one process of a guest that plays so; return the exit code told and the output."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    reader, writer = os.pipe()
    async with open_guest(tmp_path, play) as guest:  # type: ignore[arg-type]
        process = GuestProcess(guest, "c", "c", Attachment(theirs, Stdio(None, writer, None), 0, terminal=False))
        process.follow()
        async with asyncio.timeout(10):
            status = await asyncio.shield(process.exited)
    with ours, os.fdopen(reader, "rb") as output:
        return status, output.read()


async def test_a_process_of_a_guest_that_breaks_the_protocol_is_lost_and_its_streams_end(tmp_path: Path) -> None:
    assert await run_process(tmp_path, send(b"\xff" * 100)) == (LOST_STATUS, b"")


async def test_a_process_of_a_guest_that_hangs_up_is_lost_and_its_streams_end(tmp_path: Path) -> None:
    async def play(_: Call, writer: asyncio.StreamWriter) -> None:
        writer.close()

    assert await run_process(tmp_path, play) == (LOST_STATUS, b"")


async def test_output_after_the_exit_is_bounded_in_time(tmp_path: Path) -> None:
    """A guest that says that a process has ended, and then goes silent on its output, holds nobody up."""

    async def play(call: Call, writer: asyncio.StreamWriter) -> None:
        if call.method == "WaitProcess":
            writer.write(ServerEngine.respond(call.stream, agent.WaitProcessResponse(status=3).encode()))

    assert await run_process(tmp_path, play) == (3, b"")


# What is shown to people and tools

TEXT = st.text(max_size=60)
NUMBER = st.integers(0, 2**32 - 1)
PROCESSES = st.builds(
    inspect.ProcessInfo,
    pid=st.integers(-(2**31), 2**31 - 1),
    parent=st.integers(-(2**31), 2**31 - 1),
    uid=NUMBER,
    state=TEXT,
    age=st.integers(0, 2**64 - 1),
    virtual_kib=st.integers(0, 2**64 - 1),
    name=TEXT,
    arguments=st.lists(TEXT, max_size=3),
)


@given(process=PROCESSES)
def test_a_process_cannot_forge_lines_of_the_proc_that_is_shown_for_it(process: inspect.ProcessInfo) -> None:
    stat, status = format_stat(process, 1000), format_status(process)
    assert stat.count("\n") == 1
    assert len(stat.rpartition(")")[2].split()) == 50
    names = [line.partition(":")[0] for line in status.rstrip("\n").split("\n")]
    assert len(names) == len(set(names)) == 30
    assert "\x1b" not in stat + status


@given(wire=st.binary(max_size=400))
def test_statistics_of_a_hostile_guest_are_described_or_refused(wire: bytes) -> None:
    try:
        response = agent.StatsContainerResponse.decode(wire)
    except ProtocolError:
        return
    describe_stats(response)
