"""The watch of the host's clock."""

import select
import time

import pytest

from kata.sys.timer import ClockWatch


def is_readable(watch: ClockWatch) -> bool:
    return bool(select.select([watch.descriptor], [], [], 0)[0])


def test_a_clock_that_is_set_is_told_each_time() -> None:
    watch = ClockWatch()
    try:
        assert not is_readable(watch)
        for _ in range(2):
            try:
                time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns())
            except PermissionError as error:
                pytest.skip(f"the clock cannot be set here, to the time that it shows: {error}")
            assert is_readable(watch)
            watch.clear()
            assert not is_readable(watch)
    finally:
        watch.close()
