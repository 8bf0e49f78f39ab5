"""The guest's clock, which the host sets and keeps right."""

import time

from kata.errors import HostError, UsageError
from kata.protocol.messages import clock as wire
from kata.protocol.messages.types import Empty
from kata.sys import linux
from kata.transport.ttrpc import Method, Services

_STEP = 100_000_000
"""Nanoseconds from which a clock jumps: the kernel gains or loses 0.5 ms a second (adjtime(3)), 100 ms in 200 s."""

_SECOND = 1_000_000_000
_LIMIT = 1 << 63


def set_time(seconds: int, microseconds: int) -> None:
    """Set the time since the epoch. Raise UsageError for what is no time, HostError."""
    if seconds < 0 or not 0 <= microseconds < 1_000_000:
        raise UsageError(f"{seconds} s and {microseconds} µs are no time of day")
    _jump(seconds * _SECOND + microseconds * 1000)


def correct_clock(nanoseconds: int) -> None:
    """Let the clock gain `nanoseconds`: by a slightly different pace, or at once where that would take minutes.

    Raise UsageError for what leads before the epoch or beyond what the kernel can count, HostError.
    """
    if abs(nanoseconds) >= _STEP:
        _jump(time.time_ns() + nanoseconds)
        return
    try:
        linux.adjtime(nanoseconds)
    except OSError as error:
        raise HostError(f"the pace of the guest's clock cannot be changed: {error.strerror}") from error


def _jump(to: int) -> None:
    if not 0 <= to < _LIMIT:
        raise UsageError(f"{to} ns after the epoch is no time that a clock can show")
    try:
        time.clock_settime_ns(time.CLOCK_REALTIME, to)
    except OSError as error:
        raise HostError(f"the guest's clock cannot be set: {error.strerror}") from error


async def _compare(_: Empty) -> wire.Reading:
    return wire.Reading(nanoseconds=time.time_ns())


async def _correct(request: wire.Correction) -> Empty:
    correct_clock(request.nanoseconds)
    return Empty()


def list_clock_services() -> Services:
    """Return the table of the service."""
    return {wire.SERVICE: {"Compare": Method(Empty, _compare), "Correct": Method(wire.Correction, _correct)}}
