"""How long calls waited for their launch: a histogram for people, and the recent mean, which experts scale on.

Written by whoever has the batcher's turn, read by any. A reader may see a call in one sum and not yet in the other.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

BOUNDS_S = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0)
WINDOW_S = 30  # two of the autoscaler's looks


class QueueTimes:
    """Waiting times, since the process started and second by second over the last WINDOW_S."""

    def __init__(self) -> None:
        self.sum_s = 0.0
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._seconds: list[tuple[int, float, int]] = [(-1, 0.0, 0)] * WINDOW_S  # (which second, sum, calls)

    def count(self, waited_s: float, now: float) -> None:
        """One call whose launch begins at `now`."""
        self.sum_s += waited_s
        self._counts[bisect_left(BOUNDS_S, waited_s)] += 1
        second = int(now)
        place = second % WINDOW_S
        which, total, calls = self._seconds[place]
        self._seconds[place] = (second, total + waited_s, calls + 1) if which == second else (second, waited_s, 1)

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, calls up to it), as Prometheus takes a histogram."""
        bounds = [*map(str, BOUNDS_S), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True))

    def recent_s(self, now: float) -> float:
        """Mean over the calls of the last WINDOW_S; 0 when there were none."""
        recent = [(total, calls) for second, total, calls in self._seconds if int(now) - WINDOW_S < second]
        calls = sum(calls for _, calls in recent)
        return sum(total for total, _ in recent) / calls if calls else 0.0
