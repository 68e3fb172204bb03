"""Counts of durations in bins of 2 %, from which percentiles come."""

from __future__ import annotations

import math

LEAST_S, RATIO = 1e-5, 1.02
BINS = 1 + math.ceil(math.log(1e4 / LEAST_S) / math.log(RATIO))
_SCALE = 1 / math.log(RATIO)


class Histogram:
    """Durations of 10 µs to 10,000 s."""

    def __init__(self) -> None:
        self.counts = [0] * BINS
        self.total = 0

    def add(self, seconds: float, count: int = 1) -> None:
        place = int(math.log(seconds / LEAST_S) * _SCALE) if seconds > LEAST_S else 0
        self.counts[min(place, BINS - 1)] += count
        self.total += count

    def percentile(self, share: float) -> float:
        """Seconds that so large a share does not exceed, by the middle of its bin; NaN of nothing."""
        left = share * self.total
        for place, count in enumerate(self.counts):
            left -= count
            if count and left <= 0:
                return LEAST_S * math.pow(RATIO, place + 0.5)
        return math.nan
