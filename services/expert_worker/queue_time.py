"""How long calls waited for their launch: a histogram, and the recent mean, by which expert workers are autoscaled.

Written under a lock of the batcher's, read by any thread. A reader may see a call in one sum and not yet in the other.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

BOUNDS_S = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0)
WINDOW_S = 30  # two sync periods of the HPA


class QueueTimes:
    """Waiting times: a histogram since the process started, and sums per second over the last WINDOW_S."""

    def __init__(self) -> None:
        self.sum_s = 0.0
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._seconds: list[tuple[int, float, int]] = [(-1, 0.0, 0)] * WINDOW_S  # ring buffer of (second, sum, calls)

    def count(self, waited_s: float, now: float) -> None:
        """Counts one call whose launch begins at `now`."""
        self.sum_s += waited_s
        self._counts[bisect_left(BOUNDS_S, waited_s)] += 1
        second = int(now)
        index = second % WINDOW_S
        stored, total, calls = self._seconds[index]
        self._seconds[index] = (second, total + waited_s, calls + 1) if stored == second else (second, waited_s, 1)

    def buckets(self) -> list[tuple[str, float]]:
        """The histogram as Prometheus takes it: (upper bound, calls up to it)."""
        bounds = [*map(str, BOUNDS_S), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True))

    def recent_s(self, now: float) -> float:
        """The mean waiting time of the calls of the last WINDOW_S; 0 when there were none."""
        recent = [(total, calls) for second, total, calls in self._seconds if int(now) - WINDOW_S < second]
        calls = sum(calls for _, calls in recent)
        return sum(total for total, _ in recent) / calls if calls else 0.0
