"""When the answer to a probe is late: later than nearly all that the worker gave before, or far later than others give.
And how often lateness alone may cost a worker its sequences. Pure: no clock, no I/O.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from statistics import median_low

KEPT = 64  # times of a worker
FEWEST = 4  # of them before they say anything
QUANTILE = 0.8  # of them: stalls, each of which makes one late answer, do not count as how the worker is
FACTOR = 2.0  # times the quantile: ordinary tails are not late
AGAINST_OTHERS = 5.0  # times what is the middle one among the workers, beyond which nobody's own history counts
FLOOR_S = 0.1  # sooner than that no answer is late
NEVER = math.inf

MOST_ALARMS = 8.0  # of one worker, that may come at once
ALARM_EVERY_S = 8.0  # one more after so long
FALSE_COSTS = 3.0  # more than another one: the worker's sequences were computed again for nothing
FALSE_WITHIN = 3.0  # times the limit, in which an answer that is late after all says that the alarm was false


class ProbeTimes:
    """How long each worker's last answers to probes took."""

    def __init__(self) -> None:
        self._kept: dict[str, deque[float]] = {}
        self._own: dict[str, float] = {}
        self._middle: float | None = None

    def add(self, name: str, seconds: float) -> None:
        """Takes the time of one answer."""
        kept = self._kept.setdefault(name, deque(maxlen=KEPT))
        kept.append(seconds)
        if len(kept) >= FEWEST:
            quantile = sorted(kept)[min(len(kept) - 1, int(QUANTILE * len(kept)))]
            self._own[name], self._middle = max(FLOOR_S, FACTOR * quantile), None

    def keep_only(self, names: Collection[str]) -> None:
        """Forgets the other workers."""
        for name in [name for name in self._kept if name not in names]:
            del self._kept[name]
            if self._own.pop(name, None) is not None:
                self._middle = None

    def late_after(self, name: str) -> float:
        """After how many seconds this worker's answer is late; NEVER while nothing is known of any worker."""
        if not self._own:
            return NEVER
        if self._middle is None:
            self._middle = median_low(self._own.values())
        return min(self._own.get(name, NEVER), AGAINST_OTHERS * self._middle)


class Alarms:
    """How often each worker may still be given up for lateness alone. `now`: of any clock that advances."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}  # alarms, and when they were counted

    def take(self, name: str, now: float) -> bool:
        """Takes one alarm, if there is one left."""
        left = self._count(name, now)
        if left < 1.0:
            return False
        self._left[name] = left - 1.0, now
        return True

    def was_false(self, name: str, now: float) -> None:
        """The last one was: the worker has answered soon after."""
        self._left[name] = self._count(name, now) - FALSE_COSTS, now

    def keep_only(self, names: Collection[str]) -> None:
        """Forgets the other workers."""
        self._left = {name: left for name, left in self._left.items() if name in names}

    def _count(self, name: str, now: float) -> float:
        left, at = self._left.get(name, (MOST_ALARMS, now))
        return min(MOST_ALARMS, left + (now - at) / ALARM_EVERY_S)
