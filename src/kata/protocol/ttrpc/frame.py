"""Frames of ttrpc: bytes to frames and back."""

from __future__ import annotations

import struct
from collections import namedtuple
from enum import IntEnum

from kata.errors import ProtocolError

TYPE_CHECKING = False  # typing.NamedTuple would cost each command of each pod 5 ms
if TYPE_CHECKING:
    from kata.protocol.protobuf import Buffer

MAX_PAYLOAD = 4 << 20
PORTION = 1 << 16
"""Bytes received at a time when no larger payload is on its way."""

REMOTE_CLOSED, NO_DATA = 1, 4
"""Flags of a frame of kind DATA: the sender sends no more, and the frame has no message in it."""

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
        payload: Buffer

    def encode(self) -> bytes:
        return _HEADER.pack(len(self.payload), self.stream, self.kind, self.flags) + bytes(self.payload)


def encode_head(stream: int, kind: int, size: int) -> bytes:
    """Return what stands before a payload of `size` bytes in a frame without flags."""
    return _HEADER.pack(size, stream, kind, 0)


class FrameDecoder:
    """Cuts a byte stream into frames, in memory that a large payload is received into and never leaves.

    Payloads are views; each has its bytes for itself.
    """

    def __init__(self) -> None:
        self._head = bytearray()
        self._payload: memoryview | None = None
        self._filled = 0
        self._portion: bytearray | None = None
        self._direct = False

    def get_buffer(self) -> memoryview:
        """Return where the next bytes are to be received; then call `advance`."""
        payload = self._payload
        self._direct = payload is not None and len(payload) - self._filled >= PORTION
        if payload is not None and self._direct:
            return payload[self._filled :]
        if self._portion is None:
            self._portion = bytearray(PORTION)
        return memoryview(self._portion)

    def advance(self, size: int) -> list[Frame]:
        """Return the frames that the first `size` bytes of the buffer complete. Raise ProtocolError as `feed` does."""
        if self._direct:
            self._filled += size
            return self.feed(b"")
        assert self._portion is not None
        return self.feed(memoryview(self._portion)[:size])

    def feed(self, data: Buffer) -> list[Frame]:
        """Return the frames that `data` completes. Raise ProtocolError as soon as a header announces too much."""
        rest = memoryview(data)
        frames: list[Frame] = []
        while True:
            if self._payload is None:
                missing = _HEADER.size - len(self._head)
                self._head += rest[:missing]
                rest = rest[missing:]
                if len(self._head) < _HEADER.size:
                    return frames
                self._payload = memoryview(bytearray(self._read_length()))
            part = rest[: len(self._payload) - self._filled]
            if part:
                end = self._filled + len(part)
                self._payload[self._filled : end] = part
                self._filled = end
                rest = rest[len(part) :]
            if self._filled < len(self._payload):
                return frames
            _, stream, kind, flags = _HEADER.unpack(self._head)
            frames.append(Frame(stream, kind, flags, self._payload))
            self._head.clear()
            self._payload, self._filled = None, 0

    def _read_length(self) -> int:
        length, stream, _, _ = _HEADER.unpack(self._head)
        if length > MAX_PAYLOAD:
            raise ProtocolError(f"ttrpc frame of {length} bytes on stream {stream} is over the limit of {MAX_PAYLOAD}")
        return int(length)
