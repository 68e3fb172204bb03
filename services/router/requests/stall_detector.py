"""Finds attention workers with open attempts that send nothing: they have died silently, or hang with sockets open.

How busy a worker or this router is does not matter. A worker of which anything comes is alive; one that is silent is
probed, with a time limit that the lag of this router's own loop does not use up. The attempts at one that does not
answer are abandoned: if it has a lease, only where another worker can take them over. An attempt without an event for
`progress_s` ends its request: workers send one for tokens and for parts of a prompt, so a long prompt lives on for as
long as it is being computed.
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
ReceivedAt = Callable[[AttentionWorkerView], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class StallTimeouts:
    """Seconds without a message: before a silent worker without a lease is given up at the earliest, before a silent
    worker is probed, and without an event before a request is given up."""

    lost_s: float = 2.0
    probe_after_s: float = 0.4
    progress_s: float = 600.0


class StallDetector:
    """Abandons the attempts of dead workers. `probe`: whether a worker answers in time. `received_at`: when the last
    message came from it, by the monotonic clock."""

    def __init__(self, probe: Probe, received_at: ReceivedAt, timeouts: StallTimeouts) -> None:
        self._probe, self._received_at = probe, received_at
        self._timeouts = timeouts
        self._missing_since: dict[str, float] = {}
        self._probing: dict[str, asyncio.Task[None]] = {}
        self.suspects: set[str] = set()  # ids of workers that did not answer their last probe

    def check(self, workers: Collection[AttentionWorkerView], attempts: Collection[Attempt]) -> None:
        """Starts probes of silent workers, without waiting for any probe; ends requests without progress."""
        now = time.monotonic()
        waiting = [attempt for attempt in attempts if not attempt.complete]
        self._expire(waiting, now)
        listed = {worker.worker_id: worker for worker in workers}
        used = {attempt.worker.worker_id: attempt.worker for attempt in waiting}
        self._missing_since = {name: self._missing_since.get(name, now) for name in used.keys() - listed.keys()}
        self.suspects &= listed.keys()
        before = now - self._timeouts.probe_after_s
        silent = {
            a.worker.worker_id for a in waiting if a.last_event_at < before and self._received_at(a.worker) < before
        }
        for name in (silent | self.suspects) - self._probing.keys():
            worker = listed.get(name) or used[name]
            self._probing[name] = asyncio.ensure_future(self._check_worker(worker, workers, attempts))

    def close(self) -> None:
        for task in self._probing.values():
            task.cancel()

    def _expire(self, attempts: Iterable[Attempt], now: float) -> None:
        for attempt in attempts:
            if attempt.last_event_at < now - self._timeouts.progress_s:
                log.warning("a request makes no progress", worker=attempt.worker.worker_id, attempt=attempt.number)
                attempt.expire()

    async def _check_worker(
        self, worker: AttentionWorkerView, workers: Collection[AttentionWorkerView], attempts: Collection[Attempt]
    ) -> None:
        name, probed_at = worker.worker_id, time.monotonic()
        try:
            alive = await self._probe(worker) or self._received_at(worker) >= probed_at
        finally:
            del self._probing[name]
        if alive:
            self.suspects.discard(name)
            return
        missing_since = self._missing_since.get(name)
        if missing_since is None:
            self.suspects.add(name)
            other = choose_worker(workers, {}, numerics_class=worker.numerics_class, avoid=self.suspects)
            if other is None or other.worker_id in self.suspects:
                return
        elif time.monotonic() < missing_since + self._timeouts.lost_s:
            return  # its lease may come back; it is probed again
        for attempt in list(attempts):
            same = attempt.worker.worker_id == name
            if same and not attempt.complete and attempt.last_event_at < probed_at:
                log.warning("attention worker does not answer", worker=name, listed=missing_since is None)
                attempt.abandon()
