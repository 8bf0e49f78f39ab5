"""Values of Google's own that other protocols use. Source: google/protobuf/any.proto, timestamp.proto."""

from __future__ import annotations

from kata.protocol.protobuf import Message, int32, int64, raw, string


class Any(Message):
    """A message of any kind, or JSON: `type_url` says what `value` is."""

    type_url: str = string(1)
    value: bytes = raw(2)


class Timestamp(Message):
    """Seconds since 1970 in UTC, and nanoseconds of the last of them."""

    seconds: int = int64(1)
    nanos: int = int32(2)


def pack_message(name: str, message: Message) -> Any:
    """Wrap a message in containerd's manner: the bare full name, without a domain before it."""
    return Any(type_url=name, value=message.encode())


def make_timestamp(nanoseconds: int) -> Timestamp:
    """Turn nanoseconds since 1970 into a Timestamp."""
    return Timestamp(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)
