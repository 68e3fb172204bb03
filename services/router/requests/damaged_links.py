"""Attention workers to which messages were damaged on their way: after some in a short time, others are preferred.

Pure: no clock, no sockets.
"""

from __future__ import annotations

from collections import defaultdict, deque

MOST, WITHIN_S = 3, 60.0  # so many damaged streams within so long, and a worker is avoided
FIRST_S, LAST_S = 30.0, 600.0  # for so long: twice as long each time


class DamagedLinks:
    """By worker id. Times are of the monotonic clock."""

    def __init__(self) -> None:
        self._seen: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MOST))
        self._until: dict[str, tuple[float, float]] = {}  # (until, seconds)

    def note(self, worker_id: str, now: float) -> float:
        """Takes a stream that ended with a damaged message; returns how long its worker is avoided, 0 if it isn't."""
        seen = self._seen[worker_id]
        seen.append(now)
        if len(seen) < MOST or seen[0] < now - WITHIN_S:
            return 0.0
        _, before_s = self._until.get(worker_id, (0.0, FIRST_S / 2))
        for_s = min(LAST_S, 2 * before_s)
        self._until[worker_id] = now + for_s, for_s
        seen.clear()
        return for_s

    def avoided(self, now: float) -> set[str]:
        """The workers that are to be avoided while there are others."""
        return {worker_id for worker_id, (until, _) in self._until.items() if until > now}
