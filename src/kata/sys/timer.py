"""The host's clock being set, seen without polling (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET)."""

import os
import time
from contextlib import suppress

from kata.sys import linux

_NEVER = 1 << 40  # seconds


class ClockWatch:
    """`descriptor` becomes readable when the clock jumps: when it is set, and when the host wakes from suspension."""

    def __init__(self) -> None:
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self.descriptor = linux.timerfd_create(time.CLOCK_REALTIME, flags)
        self._arm()

    def _arm(self) -> None:
        linux.timerfd_settime(self.descriptor, linux.TFD_TIMER_ABSTIME | linux.TFD_TIMER_CANCEL_ON_SET, _NEVER)

    def clear(self) -> None:
        """Take note of the jump and watch for the next one."""
        with suppress(OSError):  # ECANCELED is what tells of the jump
            os.read(self.descriptor, 8)
        self._arm()

    def close(self) -> None:
        os.close(self.descriptor)
