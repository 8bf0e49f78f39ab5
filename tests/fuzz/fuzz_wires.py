"""Feed what reads bytes of the guest or of its VMM on the host: ttrpc, QMP, and what is shown of processes.

    python3 tests/fuzz/fuzz_wires.py [SECONDS]            plain random search, no more than the standard tools
    python3 tests/fuzz/fuzz_wires.py --atheris [libFuzzer flags]   guided by coverage, where `atheris` is installed

The only error that may come out is ProtocolError. Both ways run the same hypothesis tests, whose `fuzz_one_input`
turns a fuzzer's bytes into their arguments.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

from hypothesis import given, settings
from hypothesis import strategies as st

from kata.errors import ProtocolError
from kata.protocol.messages import agent, inspect, sandbox
from kata.protocol.protobuf import Message
from kata.protocol.qmp import QmpEngine
from kata.protocol.ttrpc.engine import ClientEngine, ServerEngine
from kata.sandbox.procview import format_stat, format_status
from kata.sandbox.stats import describe_stats

MESSAGES = [
    value
    for module in (agent, inspect, sandbox)
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, Message)
]


@settings(deadline=None, database=None)
@given(pieces=st.lists(st.binary(max_size=400), max_size=5))
def read_frames(pieces: list[bytes]) -> None:
    for engine in (ClientEngine(), ServerEngine()):
        with contextlib.suppress(ProtocolError):
            for piece in pieces:
                engine.receive(piece)


@settings(deadline=None, database=None)
@given(cls=st.sampled_from(MESSAGES), wire=st.binary(max_size=600))
def read_message(cls: type[Message], wire: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        read = cls.decode(wire)
        assert cls.decode(read.encode()) == read


@settings(deadline=None, database=None)
@given(pieces=st.lists(st.binary(max_size=200), max_size=5))
def read_control(pieces: list[bytes]) -> None:
    engine = QmpEngine()
    with contextlib.suppress(ProtocolError):
        engine.receive(b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}\r\n')
        engine.negotiate()
        for piece in pieces:
            engine.receive(piece)


@settings(deadline=None, database=None)
@given(wire=st.binary(max_size=600))
def show_guest(wire: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        describe_stats(agent.StatsContainerResponse.decode(wire))
    with contextlib.suppress(ProtocolError):
        for process in inspect.ListProcessesResponse.decode(wire).processes:
            assert format_stat(process, 1).count("\n") == 1
            assert "\x1b" not in format_status(process)


TARGETS = tuple(
    test.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    for test in (read_frames, read_message, read_control, show_guest)
)


def run_one(data: bytes) -> None:
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


def search(seconds: float) -> int:
    """Try random inputs for `seconds`; return how many. An input that breaks a decoder is raised from here."""
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        run_one(os.urandom(512))
        count += 1
    return count


if __name__ == "__main__":
    if sys.argv[1:2] == ["--atheris"]:
        atheris = importlib.import_module("atheris")
        atheris.Setup([sys.argv[0], *sys.argv[2:]], run_one)
        atheris.Fuzz()
    else:
        duration = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
        print(f"{search(duration)} inputs in {duration:g} s, no decoder broke")
