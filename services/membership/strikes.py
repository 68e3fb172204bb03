"""Who is wrong when two workers of one numerics class give different bits, and when that is a conviction. Pure.

Workers of a class give the same bits for the same input, so one of two that differ is wrong, whatever the reason.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Hashable, Sequence
from typing import Generic, TypeVar

CONVICTS, WINDOW_S = 2, 600.0  # so many strikes within so long
MOST_ASKED = 2  # third workers

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def outvoted(used: tuple[K, T], again: tuple[K, T], third: Sequence[K]) -> Generator[K, T | None, K | None]:
    """Yields whom to ask for the same again, and takes the answer, None for none; returns who of the two is wrong.

    A third worker decides. Without one, both are asked once more, and who contradicts itself is wrong; None where both
    or neither do.
    """
    if used[0] == again[0]:
        return used[0]
    for other in third[:MOST_ASKED]:
        answer = yield other
        if answer == used[1]:
            return again[0]
        if answer == again[1]:
            return used[0]
    changed = []
    for worker, before in (used, again):
        answer = yield worker
        if answer is not None and answer != before:
            changed.append(worker)
    return changed[0] if len(changed) == 1 else None


class Strikes(Generic[K]):
    """How often each worker was found wrong lately. `now`: of any clock that advances."""

    def __init__(self) -> None:
        self._at: dict[K, deque[float]] = {}

    def add(self, worker: K, now: float) -> bool:
        """Takes one more; returns whether there are enough."""
        times = self._at.setdefault(worker, deque(maxlen=CONVICTS))
        times.append(now)
        return len(times) == CONVICTS and times[0] > now - WINDOW_S

    def others(self, worker: K, now: float) -> bool:
        """Whether another worker was found wrong lately, too."""
        return any(times[-1] > now - WINDOW_S for one, times in self._at.items() if one != worker)

    def keep_only(self, workers: frozenset[K]) -> None:
        """Forgets the others."""
        self._at = {worker: times for worker, times in self._at.items() if worker in workers}
