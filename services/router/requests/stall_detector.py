"""Notices workers that hold sequences and say nothing: gone from membership, or frozen with their sockets open.

A worker that answers its probe is only slow, and is left alone. One that does not is given up if another can go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from services.router.requests.worker_choice import AttentionWorker, choose_worker

log = structlog.get_logger(__name__)


class OpenAttempt(Protocol):
    """What is watched of an attempt under way. `last_event_at` is a moment of the monotonic clock."""

    worker: AttentionWorker
    last_event_at: float

    def abandon(self) -> None: ...


Probe = Callable[[AttentionWorker], Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StallTimeouts:
    """Seconds of silence: before a worker without a lease is given up, and before one with a lease is probed."""

    lost_s: float = 2.0
    probe_after_s: float = 0.5


class StallDetector:
    """`probe` asks a worker whether it is there, and says False when no answer came in time."""

    def __init__(self, probe: Probe, give_up_at: StallTimeouts) -> None:
        self._probe = probe
        self._timeouts = give_up_at
        self._missing_since: dict[str, float] = {}
        self._probing: dict[str, asyncio.Task[None]] = {}
        self.suspects: set[str] = set()  # ids of workers that did not answer their last probe

    def look(self, workers: Collection[AttentionWorker], attempts: Collection[OpenAttempt]) -> None:
        """One look at everything, without waiting for any probe."""
        now = time.monotonic()
        self._give_up_lost(workers, attempts, now)
        quiet = {a.worker.worker_id for a in attempts if a.last_event_at < now - self._timeouts.probe_after_s}
        self.suspects &= {worker.worker_id for worker in workers}
        for worker in workers:
            if worker.worker_id in quiet | self.suspects and worker.worker_id not in self._probing:
                task = asyncio.ensure_future(self._ask(worker, workers, attempts))
                self._probing[worker.worker_id] = task

    def close(self) -> None:
        for task in self._probing.values():
            task.cancel()

    def _give_up_lost(self, workers: Iterable[AttentionWorker], attempts: Collection[OpenAttempt], now: float) -> None:
        gone = {attempt.worker.worker_id for attempt in attempts} - {worker.worker_id for worker in workers}
        self._missing_since = {worker_id: self._missing_since.get(worker_id, now) for worker_id in gone}
        for attempt in list(attempts):
            missing_since = self._missing_since.get(attempt.worker.worker_id, now)
            if max(missing_since, attempt.last_event_at) < now - self._timeouts.lost_s:
                log.warning("worker lost", worker=attempt.worker.worker_id)
                attempt.abandon()

    async def _ask(
        self, worker: AttentionWorker, workers: Collection[AttentionWorker], attempts: Collection[OpenAttempt]
    ) -> None:
        asked_at = time.monotonic()
        try:
            there = await self._probe(worker)
        finally:
            del self._probing[worker.worker_id]
        if there:
            self.suspects.discard(worker.worker_id)
            return
        self.suspects.add(worker.worker_id)
        other = choose_worker(workers, {}, numerics_class=worker.numerics_class, avoid=self.suspects)
        if other is None or other.worker_id in self.suspects:
            return
        for attempt in list(attempts):
            if attempt.worker.worker_id == worker.worker_id and attempt.last_event_at < asked_at:
                log.warning("worker does not answer", worker=worker.worker_id, instead=other.worker_id)
                attempt.abandon()
