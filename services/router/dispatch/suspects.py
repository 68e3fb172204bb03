"""Which workers are avoided, until when, and when each is probed. Pure: no clock, no I/O.

A worker is a suspect once a call to it has failed, or once calls to it were overdue several times in a row while
another worker answered them. It is avoided until probes of it are answered in time: no user's call finds out whether it
is well again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

LOOK_S = 0.05  # between two looks at who is to be probed, while there are suspects
HEALTHY_S = 0.1  # a probe that takes no longer than this, or than a call that is not overdue, is answered in time
OVERDUE = 3  # calls in a row that another worker has answered first
HEALTHY = 2  # probes in a row that are answered in time
FIRST_PROBE_S, LAST_PROBE_S = (
    0.2,
    10.0,
)  # before the first probe; twice as long after each one that failed, or each time again
FORGOTTEN_S = 60.0  # after which a worker that was a suspect begins anew

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Worker:
    suspect: bool = False
    slow: bool = False  # the reason: it answers, but too late
    overdue: int = 0
    answered: int = -1  # calls that it had answered when its last one was overdue
    times: int = 0  # that it has become a suspect, lately
    healthy: int = 0
    failed: int = 0  # probes in a row
    probe_at: float = 0.0
    changed_at: float = -math.inf


class Suspects(Generic[K]):
    """The workers that one attention worker has had trouble with. `now`: of any clock that advances."""

    def __init__(self) -> None:
        self._workers: dict[K, _Worker] = {}
        self.keys: frozenset[K] = frozenset()

    def overdue(self, key: K, answered: int, now: float) -> bool:
        """Takes a call that another worker has answered first; returns whether the worker has become a suspect.

        `answered`: calls that the worker has answered until now. One between two that are overdue ends the row.
        """
        worker = self._workers.setdefault(key, _Worker())
        worker.overdue = worker.overdue + 1 if worker.answered == answered else 1
        worker.answered = answered
        if worker.overdue < OVERDUE or worker.suspect:
            return False
        worker.slow = True
        self._avoid(worker, now)
        return True

    def failed(self, key: K, now: float) -> bool:
        """Takes a call that has failed: the worker is a suspect at once; returns whether it was none before."""
        worker = self._workers.setdefault(key, _Worker())
        worker.slow = False
        if worker.suspect:
            return False
        self._avoid(worker, now)
        return True

    def answered(self, key: K, now: float) -> bool:
        """Takes a call that was answered; returns whether the worker is no suspect any more for it.

        One that is too slow stays a suspect until probes say otherwise: it has always answered.
        """
        worker = self._workers.get(key)
        if worker is None or not worker.suspect or worker.slow:
            return False
        self._clear(worker, now)
        return True

    def since(self, key: K) -> float:
        """When a worker has become a suspect, or has ceased to be one."""
        worker = self._workers.get(key)
        return worker.changed_at if worker is not None else -math.inf

    def due(self, now: float) -> list[K]:
        """The suspects that are to be probed now; none of them is named again before `probed`."""
        found = [key for key, worker in self._workers.items() if worker.suspect and worker.probe_at <= now]
        for key in found:
            self._workers[key].probe_at = math.inf
        return found

    def probed(self, key: K, healthy: bool, now: float) -> bool:
        """Takes the outcome of a probe; returns whether the worker is no suspect any more."""
        worker = self._workers.get(key)
        if worker is None or not worker.suspect:
            return False
        worker.healthy, worker.failed = (worker.healthy + 1, 0) if healthy else (0, worker.failed + 1)
        if worker.healthy >= HEALTHY:
            self._clear(worker, now)
            return True
        worker.probe_at = now + (FIRST_PROBE_S if healthy else _pause_s(worker))
        return False

    def keep_only(self, keys: Collection[K]) -> None:
        """Forgets all other workers."""
        self._workers = {key: worker for key, worker in self._workers.items() if key in keys}
        self._count()

    def _avoid(self, worker: _Worker, now: float) -> None:
        worker.times = worker.times + 1 if now < worker.changed_at + FORGOTTEN_S else 1
        worker.suspect, worker.healthy, worker.failed, worker.changed_at = True, 0, 0, now
        worker.probe_at = now + _pause_s(worker)
        self._count()

    def _clear(self, worker: _Worker, now: float) -> None:
        worker.suspect, worker.overdue, worker.changed_at = False, 0, now
        self._count()

    def _count(self) -> None:
        self.keys = frozenset(key for key, worker in self._workers.items() if worker.suspect)


def _pause_s(worker: _Worker) -> float:
    return float(min(LAST_PROBE_S, FIRST_PROBE_S * 2 ** min(worker.times - 1 + worker.failed, 10)))
