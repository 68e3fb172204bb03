"""Finds attention workers with open attempts that send nothing: they have died silently, or hang with sockets open.

How busy a worker or this router is does not matter: probes have a time limit that the lag of this router's own loop
does not use up. `silent_workers.py` decides who is probed and who is given up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection

import structlog

from services.router.requests.attempt import Attempt
from services.router.requests.silent_workers import ReceivedAt, SilentWorkers, StallTimeouts
from services.router.requests.worker_choice import AttentionWorkerView

log = structlog.get_logger(__name__)

Probe = Callable[[AttentionWorkerView], Awaitable[bool]]


class StallDetector:
    """Abandons the attempts of dead workers. `probe`: whether a worker answers in time. `received_at`: when the last
    message came from it, by the monotonic clock."""

    def __init__(self, probe: Probe, received_at: ReceivedAt, timeouts: StallTimeouts) -> None:
        self._probe, self._received_at = probe, received_at
        self._silent = SilentWorkers(timeouts)
        self._probing: dict[str, asyncio.Task[None]] = {}

    @property
    def suspects(self) -> set[str]:
        """The ids of workers that did not answer their last probe."""
        return self._silent.suspects

    def check(self, workers: Collection[AttentionWorkerView], attempts: Collection[Attempt]) -> None:
        """Starts probes of silent workers, without waiting for any probe; ends requests without progress."""
        now = time.monotonic()
        for attempt in self._silent.without_progress(attempts, now):
            log.warning("a request makes no progress", worker=attempt.worker.worker_id, attempt=attempt.number)
            attempt.expire()
        for worker in self._silent.to_probe(workers, attempts, self._received_at, now):
            if worker.worker_id not in self._probing:
                self._probing[worker.worker_id] = asyncio.ensure_future(self._check_worker(worker, workers, attempts))

    def close(self) -> None:
        for task in self._probing.values():
            task.cancel()

    async def _check_worker(
        self, worker: AttentionWorkerView, workers: Collection[AttentionWorkerView], attempts: Collection[Attempt]
    ) -> None:
        name, probed_at = worker.worker_id, time.monotonic()
        try:
            alive = await self._probe(worker) or self._received_at(worker) >= probed_at
        finally:
            del self._probing[name]
        if not self._silent.is_given_up(worker, alive=alive, listed=workers, now=time.monotonic()):
            return
        for attempt in list(attempts):
            same = attempt.worker.worker_id == name
            if same and not attempt.complete and attempt.last_event_at < probed_at:
                log.warning("attention worker does not answer", worker=name)
                attempt.abandon()
