"""Waiting for what nobody tells of."""

import time
from collections.abc import Callable


def wait_until(is_true: Callable[[], bool], *, timeout: float = 30.0) -> None:
    """Look again and again; what is looked at takes its time."""
    end = time.monotonic() + timeout
    while not is_true():
        assert time.monotonic() < end, "it did not come true in time"
