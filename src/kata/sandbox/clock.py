"""The guest's clock, kept as the host's is.

A guest starts with what its real-time clock tells, whole seconds, and from then on counts by itself: under TCG it was
1.2 s late from the start, and gained 15 ms an hour. Readings are taken as NTP takes them (RFC 5905, section 8): the
guest read its clock at the middle of a call, give or take half its length; the shortest of several calls counts.
"""

import asyncio
import time
from contextlib import suppress

from kata.errors import Code, GuestError, KataError
from kata.sandbox.guest import Guest
from kata.sys.timer import ClockWatch

_PERIOD = 60.0
"""Seconds between corrections: a clock that is wrong by 500 ppm, which is a lot, is 30 ms off by then."""

_READINGS = 4


class GuestClock:
    """Corrects the clock of one guest."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    async def set(self) -> None:
        """Set the clock at the start of a guest. Raise GuestError, DeadlineError."""
        try:
            await self.correct(readings=1)
        except GuestError as error:
            if error.status != Code.UNIMPLEMENTED:
                raise
            await self._guest.set_time(time.time_ns())  # upstream's agent

    async def correct(self, *, readings: int = _READINGS) -> int:
        """Correct what can be told to be wrong, and return the nanoseconds by which the guest was ahead.

        Raise GuestError, DeadlineError.
        """
        ahead, uncertainty = min([await self.compare() for _ in range(readings)], key=lambda reading: reading[1])
        if abs(ahead) > uncertainty:
            await self._guest.correct_clock(-ahead)
        return ahead

    async def compare(self) -> tuple[int, int]:
        """Return by how many nanoseconds the guest is ahead, and by how many that may be wrong."""
        before = time.time_ns()
        reading = await self._guest.read_clock()
        after = time.time_ns()
        if reading.uncertainty > 0:  # by ptp_kvm, a hundred times better (measured)
            return reading.ahead, reading.uncertainty
        return reading.nanoseconds - (before + after) // 2, (after - before) // 2

    async def follow(self) -> None:
        """Correct the clock every minute, and whenever the host's is set or the host was suspended. Cancel to end."""
        watch = ClockWatch()
        loop = asyncio.get_running_loop()
        jumped = asyncio.Event()
        loop.add_reader(watch.descriptor, jumped.set)
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(jumped.wait(), _PERIOD)
                    watch.clear()
                    jumped.clear()
                with suppress(KataError):  # of a guest that is lost others tell; one that hangs may come back
                    await self.correct()
        finally:
            loop.remove_reader(watch.descriptor)
            watch.close()
