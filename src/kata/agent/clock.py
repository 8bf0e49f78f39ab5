"""The guest's clock, which the host sets and keeps right."""

import os
import time

from kata.errors import HostError, UsageError
from kata.protocol.messages import clock as wire
from kata.protocol.messages.types import Empty
from kata.sys import linux
from kata.sys.file import read_text
from kata.transport.ttrpc import Method, Services

_STEP = 100_000_000
"""Nanoseconds from which a clock jumps: the kernel gains or loses 0.5 ms a second (adjtime(3)), 100 ms in 200 s."""

_HOST_CLOCK = "KVM virtual PTP\n"
_DYNAMIC = 3
"""What marks a clock that is a descriptor: CLOCKFD of the kernel's include/linux/posix-timers.h."""

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


def find_host_clock(folder: str = "/sys/class/ptp") -> str:
    """Return the device of the clock of KVM's host, "" where there is none. Source: drivers/ptp/ptp_kvm_common.c."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return ""
    return next((f"/dev/{name}" for name in names if read_text(f"{folder}/{name}/clock_name") == _HOST_CLOCK), "")


def compare_clock(clock: int) -> tuple[int, int]:
    """Return by how many nanoseconds this clock is ahead of another, and by how many that may be wrong."""
    before = time.time_ns()
    reading = time.clock_gettime_ns(clock)
    after = time.time_ns()
    return (before + after) // 2 - reading, (after - before) // 2 + 1


def _compare_with_host() -> tuple[int, int]:
    path = find_host_clock()
    if not path:
        return 0, 0
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0, 0
    try:
        return compare_clock((~descriptor << 3) | _DYNAMIC)
    except OSError:  # a host whose own clock is not its TSC's
        return 0, 0
    finally:
        os.close(descriptor)


async def _compare(_: Empty) -> wire.Reading:
    ahead, uncertainty = _compare_with_host()
    return wire.Reading(nanoseconds=time.time_ns(), ahead=ahead, uncertainty=uncertainty)


async def _correct(request: wire.Correction) -> Empty:
    correct_clock(request.nanoseconds)
    return Empty()


def list_clock_services() -> Services:
    """Return the table of the service."""
    return {wire.SERVICE: {"Compare": Method(Empty, _compare), "Correct": Method(wire.Correction, _correct)}}
