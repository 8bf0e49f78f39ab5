"""Messages of `containerd.services.streaming.v1.Streaming`, each of them in a `google.protobuf.Any`.

Names and numbers are those of containerd's `api/services/streaming/v1/streaming.proto` and
`api/types/transfer/streaming.proto`.
"""

from __future__ import annotations

from kata.protocol.protobuf import Message, int32, raw, string

SERVICE = "containerd.services.streaming.v1.Streaming"
INIT_TYPE = "containerd.services.streaming.v1.StreamInit"
DATA_TYPE = "containerd.types.transfer.Data"
WINDOW_TYPE = "containerd.types.transfer.WindowUpdate"
EMPTY_TYPE = "google.protobuf.Empty"


class StreamInit(Message):
    """The client's first message; the answer is an Empty."""

    id: str = string(1)


class Data(Message):
    data: bytes = raw(1)


class WindowUpdate(Message):
    """So many bytes more may be sent to the one who says this."""

    update: int = int32(1)
