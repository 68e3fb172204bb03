"""When a call is overdue: later than nearly all of its session's calls of that size were, or far later than those of
other sessions are. And how many overdue calls may be sent a second time. Pure: no clock, no I/O.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median_low
from typing import Generic, TypeVar

SIZES = 20  # of calls, by powers of two: size n has at most 2^n - 1 assignments, the last one all that are larger
KEPT = 256  # latencies of a session and size
FEWEST = 32  # of them before they say anything
FACTOR = 2.0  # times the quantile: ordinary tails are not overdue
AGAINST_OTHERS = 5.0  # times what is the middle one among the sessions, beyond which nobody's own history counts
NEVER = math.inf
FIRST_HEDGES = 16  # that are free, so that a worker can be found out before any budget is earned

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class HedgeOptions:
    """`quantile`: of a session's latencies, beyond twice which a call is overdue; 0 = no call ever is. `budget`: calls
    sent a second time, as a share of all. `floor_s`: sooner than that no call is overdue."""

    quantile: float = 0.99
    budget: float = 0.05
    floor_s: float = 0.02


def size_of(assignments: int) -> int:
    """The size of a call with so many assignments."""
    return min(assignments.bit_length(), SIZES - 1)


class Latencies(Generic[K]):
    """The last latencies of each session, by the size of the call; sessions have keys of any kind."""

    def __init__(self, options: HedgeOptions) -> None:
        self._options = options
        self._kept: dict[K, dict[int, deque[float]]] = {}
        self._changed: set[K] = set()
        self._own: dict[K, dict[int, float]] = {}

    def add(self, key: K, assignments: int, seconds: float) -> None:
        """Takes the latency of one call that was answered."""
        sizes = self._kept.setdefault(key, {})
        sizes.setdefault(size_of(assignments), deque(maxlen=KEPT)).append(seconds)
        self._changed.add(key)

    def keep_only(self, keys: Iterable[K]) -> None:
        """Forgets the other sessions."""
        wanted = set(keys)
        for known in (self._kept, self._own):
            for gone in known.keys() - wanted:
                del known[gone]
        self._changed &= wanted

    def overdue_after(self) -> dict[K, list[float]]:
        """After how many seconds calls of each session are overdue, by their size; NEVER where nothing is known."""
        for key in self._changed:
            self._own[key] = {
                size: FACTOR * _quantile(kept, self._options.quantile)
                for size, kept in self._kept[key].items()
                if len(kept) >= FEWEST
            }
        self._changed.clear()
        if not self._options.quantile:
            return {key: [NEVER] * SIZES for key in self._own}
        middle = {size: median_low(found) for size, found in _by_size(self._own).items()}
        return {key: self._limits(own, middle) for key, own in self._own.items()}

    def _limits(self, own: Mapping[int, float], middle: Mapping[int, float]) -> list[float]:
        """A session's limits by size, none of them below that of a smaller call."""
        limits: list[float] = []
        for size in range(SIZES):
            last = limits[-1] if limits else 0.0
            if size in middle:
                seconds = min(own.get(size, NEVER), AGAINST_OTHERS * middle[size])
                limits.append(max(self._options.floor_s, last if math.isfinite(last) else 0.0, seconds))
            else:  # a larger call than any that is known takes longer in proportion, at most
                limits.append(2 * last if last else NEVER)
        first = next((limit for limit in limits if math.isfinite(limit)), NEVER)
        return [min(limit, first) if math.isinf(limit) else limit for limit in limits]


def _by_size(own: Mapping[K, Mapping[int, float]]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for limits in own.values():
        for size, limit in limits.items():
            found.setdefault(size, []).append(limit)
    return found


def _quantile(kept: deque[float], quantile: float) -> float:
    ordered = sorted(kept)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


class HedgeBudget:
    """How many calls may be sent a second time: a share of all calls, and a few more."""

    def __init__(self, share: float) -> None:
        self._share, self._left, self._calls = share, float(FIRST_HEDGES), 0

    def take(self, calls: int, hedges: int) -> bool:
        """Takes so many hedges if there is budget for them. `calls`: that were sent since the start."""
        earned = self._share * (calls - self._calls)
        self._left, self._calls = min(float(FIRST_HEDGES), self._left + earned), calls
        if hedges > self._left:
            return False
        self._left -= hedges
        return True
