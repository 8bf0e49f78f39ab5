"""Feed the decoders of the ttrpc wire with bytes that a hostile peer may send.

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
from kata.protocol.messages import agent, sandbox
from kata.protocol.protobuf import Message
from kata.protocol.ttrpc.engine import ClientEngine, ServerEngine

MESSAGES = [
    value
    for module in (agent, sandbox)
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


TARGETS = (read_frames.hypothesis.fuzz_one_input, read_message.hypothesis.fuzz_one_input)  # type: ignore[attr-defined]


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
