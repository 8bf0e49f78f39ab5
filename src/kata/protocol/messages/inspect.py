"""Messages of `kata.agent.v1.Inspect`, which this project's agent offers beside upstream's services."""

from __future__ import annotations

from kata.protocol.protobuf import Message, boolean, int32, repeated, string, uint32, uint64

SERVICE = "kata.agent.v1.Inspect"


class ListProcessesRequest(Message):
    container_id: str = string(1)


class ProcessInfo(Message):
    """A process of a container. `pid` and `parent` are those of the container's pid namespace, `parent` 0 from outside.

    CPU times and `age`, the time since its start, are in clock ticks of 1/100 s.
    """

    pid: int = int32(1)
    parent: int = int32(2)
    uid: int = uint32(3)
    gid: int = uint32(4)
    state: str = string(5)
    user_ticks: int = uint64(6)
    system_ticks: int = uint64(7)
    age: int = uint64(8)
    virtual_kib: int = uint64(9)
    resident_kib: int = uint64(10)
    threads: int = uint32(11)
    terminal: int = int32(12)
    name: str = string(13)
    arguments: list[str] = repeated(14, "string")


class ListProcessesResponse(Message):
    processes: list[ProcessInfo] = repeated(1, ProcessInfo)


class Span(Message):
    """Something that took its time. `start` and `length` in nanoseconds, on the guest's monotonic clock."""

    name: str = string(1)
    start: int = uint64(2)
    length: int = uint64(3)
    failed: bool = boolean(4)


class ListSpansResponse(Message):
    """`now` is the same clock's time when the answer was made."""

    now: int = uint64(1)
    spans: list[Span] = repeated(2, Span)
