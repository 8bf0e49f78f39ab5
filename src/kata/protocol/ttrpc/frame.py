"""Frames of ttrpc: bytes to frames and back."""

from __future__ import annotations

import struct
from collections import namedtuple
from enum import IntEnum

from kata.errors import ProtocolError

TYPE_CHECKING = False  # typing.NamedTuple would cost each command of each pod 5 ms

MAX_PAYLOAD = 4 << 20
_HEADER = struct.Struct(">IIBB")


class Kind(IntEnum):
    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class Frame(namedtuple("Frame", ("stream", "kind", "flags", "payload"))):  # noqa: PYI024 - see above
    __slots__ = ()
    if TYPE_CHECKING:
        stream: int
        kind: int
        flags: int
        payload: bytes

    def encode(self) -> bytes:
        return _HEADER.pack(len(self.payload), self.stream, self.kind, self.flags) + self.payload


def encode_frame(stream: int, kind: int, *parts: bytes) -> bytes:
    """Return the wire form of a frame without flags whose payload is in parts, copying each of them once."""
    return b"".join((_HEADER.pack(sum(map(len, parts)), stream, kind, 0), *parts))


class FrameDecoder:
    """Cuts a byte stream into frames and keeps the unfinished tail for the next call."""

    def __init__(self) -> None:
        self._tail = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes. Raise ProtocolError as soon as a header announces too much."""
        tail = self._tail
        tail += data
        frames: list[Frame] = []
        at = 0
        while len(tail) - at >= _HEADER.size:
            length, stream, kind, flags = _HEADER.unpack_from(tail, at)
            if length > MAX_PAYLOAD:
                raise ProtocolError(
                    f"ttrpc frame of {length} bytes on stream {stream} is over the limit of {MAX_PAYLOAD}"
                )
            end = at + _HEADER.size + length
            if len(tail) < end:
                break
            with memoryview(tail) as view:  # a slice of a bytearray would be one more copy
                frames.append(Frame(stream, kind, flags, bytes(view[at + _HEADER.size : end])))
            at = end
        del tail[:at]
        return frames
