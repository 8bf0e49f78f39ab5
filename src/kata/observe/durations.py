"""How long calls took, counted in a histogram for each kind of call: a few numbers each, whatever their count."""

from bisect import bisect_left

BOUNDS_MS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Upper bounds of the buckets in milliseconds; upstream's."""


class Durations:
    """Histograms by action. `counts` has one number for each bound and one for what took longer; `sums` are in ms."""

    def __init__(self) -> None:
        self.counts: dict[str, list[int]] = {}
        self.sums: dict[str, float] = {}

    def note(self, action: str, seconds: float) -> None:
        """Count one call."""
        ms = seconds * 1000
        counts = self.counts.get(action)
        if counts is None:
            counts = self.counts[action] = [0] * (len(BOUNDS_MS) + 1)
        counts[bisect_left(BOUNDS_MS, ms)] += 1
        self.sums[action] = self.sums.get(action, 0.0) + ms
