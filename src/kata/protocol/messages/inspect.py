"""Messages of `kata.agent.v1.Inspect`, which this project's agent offers beside upstream's services."""

from __future__ import annotations

from kata.protocol.protobuf import Message, int32, repeated, string, uint32, uint64

SERVICE = "kata.agent.v1.Inspect"


class ListProcessesRequest(Message):
    container_id: str = string(1)


class ProcessInfo(Message):
    """A process of a container, with the guest's ids. `ticks` (CPU time) and `started` (since boot) are clock ticks."""

    pid: int = int32(1)
    parent: int = int32(2)
    uid: int = uint32(3)
    gid: int = uint32(4)
    state: str = string(5)
    ticks: int = uint64(6)
    started: int = uint64(7)
    resident_kib: int = uint64(8)
    name: str = string(9)
    arguments: list[str] = repeated(10, "string")
    terminal: int = int32(11)
    virtual_kib: int = uint64(12)


class ListProcessesResponse(Message):
    processes: list[ProcessInfo] = repeated(1, ProcessInfo)
