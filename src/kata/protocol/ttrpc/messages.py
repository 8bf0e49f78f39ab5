"""The envelopes of ttrpc: what a frame of kind request or response carries.

Source: request.proto of github.com/containerd/ttrpc, google/rpc/status.proto.
"""

from __future__ import annotations

from kata.protocol.protobuf import Buffer, Message, bulk, int32, int64, message, repeated, string


class KeyValue(Message):
    key: str = string(1)
    value: str = string(2)


class Request(Message):
    service: str = string(1)
    method: str = string(2)
    payload: Buffer = bulk(3)
    timeout_nano: int = int64(4)
    metadata: list[KeyValue] = repeated(5, KeyValue)


class Status(Message):
    code: int = int32(1)
    message: str = string(2)


class Response(Message):
    status: Status | None = message(1, Status)
    payload: Buffer = bulk(2)
