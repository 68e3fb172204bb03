"""Finds attention workers with open attempts that send nothing: they lost their lease, or hang with sockets open.

A worker that answers a probe is only slow, and is left alone. The attempts at one that does not answer are abandoned
if another worker can take them over. An attempt without an event for `progress_s` ends its request: workers send one
for tokens and for parts of a prompt, so a long prompt lives on for as long as it is being computed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass

import structlog

from services.router.requests.attempt import Attempt
from services.router.requests.worker_choice import AttentionWorkerView, choose_worker

log = structlog.get_logger(__name__)

Probe = Callable[[AttentionWorkerView], Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StallTimeouts:
    """Seconds without an event: before a worker without a lease is given up, before one with a lease is probed, and
    before a request is given up."""

    lost_s: float = 2.0
    probe_after_s: float = 0.5
    progress_s: float = 600.0


class StallDetector:
    """Abandons the attempts of stalled workers. `probe` returns whether a worker answers in time."""

    def __init__(self, probe: Probe, timeouts: StallTimeouts) -> None:
        self._probe = probe
        self._timeouts = timeouts
        self._missing_since: dict[str, float] = {}
        self._probing: dict[str, asyncio.Task[None]] = {}
        self.suspects: set[str] = set()  # ids of workers that did not answer their last probe

    def check(self, workers: Collection[AttentionWorkerView], attempts: Collection[Attempt]) -> None:
        """Abandons the attempts of lost workers and starts probes of idle ones, without waiting for any probe."""
        now = time.monotonic()
        waiting = [attempt for attempt in attempts if not attempt.complete]
        self._expire(waiting, now)
        self._abandon_lost(workers, waiting, now)
        idle = {a.worker.worker_id for a in waiting if a.last_event_at < now - self._timeouts.probe_after_s}
        self.suspects &= {worker.worker_id for worker in workers}
        for worker in workers:
            if worker.worker_id in idle | self.suspects and worker.worker_id not in self._probing:
                task = asyncio.ensure_future(self._check_worker(worker, workers, attempts))
                self._probing[worker.worker_id] = task

    def close(self) -> None:
        for task in self._probing.values():
            task.cancel()

    def _expire(self, attempts: Iterable[Attempt], now: float) -> None:
        for attempt in attempts:
            if attempt.last_event_at < now - self._timeouts.progress_s:
                log.warning("a request makes no progress", worker=attempt.worker.worker_id, attempt=attempt.number)
                attempt.expire()

    def _abandon_lost(self, workers: Iterable[AttentionWorkerView], attempts: Collection[Attempt], now: float) -> None:
        gone = {attempt.worker.worker_id for attempt in attempts} - {worker.worker_id for worker in workers}
        self._missing_since = {worker_id: self._missing_since.get(worker_id, now) for worker_id in gone}
        for attempt in attempts:
            missing_since = self._missing_since.get(attempt.worker.worker_id, now)
            if max(missing_since, attempt.last_event_at) < now - self._timeouts.lost_s:
                log.warning("attention worker lost", worker=attempt.worker.worker_id)
                attempt.abandon()

    async def _check_worker(
        self, worker: AttentionWorkerView, workers: Collection[AttentionWorkerView], attempts: Collection[Attempt]
    ) -> None:
        probed_at = time.monotonic()
        try:
            answers = await self._probe(worker)
        finally:
            del self._probing[worker.worker_id]
        if answers:
            self.suspects.discard(worker.worker_id)
            return
        self.suspects.add(worker.worker_id)
        other = choose_worker(workers, {}, numerics_class=worker.numerics_class, avoid=self.suspects)
        if other is None or other.worker_id in self.suspects:
            return
        for attempt in list(attempts):
            same = attempt.worker.worker_id == worker.worker_id
            if same and not attempt.complete and attempt.last_event_at < probed_at:
                log.warning("attention worker does not answer", worker=worker.worker_id, instead=other.worker_id)
                attempt.abandon()
