"""Which attention workers with open attempts are to be probed, and which are given up. Pure: no clock, no I/O.

A worker of which anything comes is alive; one that is silent is probed. The attempts at one that does not answer are
given up: if it has a lease, only where another worker can take them over. An attempt without an event for `progress_s`
ends its request: workers send one for tokens and for parts of a prompt, so a long prompt lives on for as long as it is
being computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from services.router.requests.worker_choice import AttentionWorkerView, choose_worker

ReceivedAt = Callable[[AttentionWorkerView], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class StallTimeouts:
    """Seconds without a message: before a silent worker without a lease is given up at the earliest, before a silent
    worker is probed, and without an event before a request is given up."""

    lost_s: float = 2.0
    probe_after_s: float = 0.06
    progress_s: float = 600.0


class OpenAttempt(Protocol):
    """The fields of an attempt that are read here."""

    @property
    def worker(self) -> AttentionWorkerView: ...

    @property
    def last_event_at(self) -> float: ...

    @property
    def complete(self) -> bool: ...


AttemptT = TypeVar("AttemptT", bound=OpenAttempt)


class SilentWorkers:
    """One router's. Times are of any clock that advances, the same in all calls."""

    def __init__(self, timeouts: StallTimeouts) -> None:
        self._timeouts = timeouts
        self._missing_since: dict[str, float] = {}
        self.suspects: set[str] = set()  # ids of workers that did not answer their last probe, or were late with it

    def is_missing(self, name: str) -> bool:
        """Whether the worker has attempts and no lease."""
        return name in self._missing_since

    def without_progress(self, attempts: Iterable[AttemptT], now: float) -> list[AttemptT]:
        """The attempts whose requests are given up."""
        before = now - self._timeouts.progress_s
        return [attempt for attempt in attempts if not attempt.complete and attempt.last_event_at < before]

    def to_probe(
        self,
        listed: Collection[AttentionWorkerView],
        attempts: Iterable[OpenAttempt],
        received_at: ReceivedAt,
        now: float,
        *,
        everybody: bool = False,
    ) -> list[AttentionWorkerView]:
        """The silent workers, which are to be probed, or with `everybody` all that serve as well. `listed`: those with
        a lease; `received_at`: when the last message came from a worker."""
        waiting = [attempt for attempt in attempts if not attempt.complete]
        by_id = {worker.worker_id: worker for worker in listed}
        used = {attempt.worker.worker_id: attempt.worker for attempt in waiting}
        self._missing_since = {name: self._missing_since.get(name, now) for name in used.keys() - by_id.keys()}
        self.suspects &= by_id.keys()
        before = now - self._timeouts.probe_after_s
        silent = {a.worker.worker_id for a in waiting if a.last_event_at < before and received_at(a.worker) < before}
        if everybody:
            silent |= {worker.worker_id for worker in listed if worker.serving}
        return [by_id.get(name) or used[name] for name in sorted(silent | self.suspects)]

    def is_given_up(
        self, worker: AttentionWorkerView, *, alive: bool, listed: Iterable[AttentionWorkerView], now: float
    ) -> bool:
        """Takes what a probe has found; returns whether the worker's attempts that were silent since are given up."""
        name = worker.worker_id
        if alive:
            self.suspects.discard(name)
            return False
        missing_since = self._missing_since.get(name)
        if missing_since is not None:  # its lease may come back; it is probed again
            return now >= missing_since + self._timeouts.lost_s
        self.suspects.add(name)
        other = choose_worker(listed, {}, numerics_class=worker.numerics_class, avoid=self.suspects)
        return other is not None and other.worker_id not in self.suspects
