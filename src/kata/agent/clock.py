"""The guest's clock, set by the host after a clone or a pause."""

import time

from kata.errors import HostError, UsageError


def set_time(seconds: int, microseconds: int) -> None:
    """Set the time since the epoch. Raise UsageError for what is no time, HostError."""
    if seconds < 0 or not 0 <= microseconds < 1_000_000:
        raise UsageError(f"{seconds} s and {microseconds} µs are no time of day")
    try:
        time.clock_settime_ns(time.CLOCK_REALTIME, seconds * 1_000_000_000 + microseconds * 1000)
    except OSError as error:
        raise HostError(f"the guest's clock cannot be set: {error.strerror}") from error
