"""Attention workers whose leases are gone: they stay in the list for as long as they answer.

A lease that has lapsed says that Redis was not written to. Redis may refuse writes, may have lost what it had, or may
be out of the worker's reach alone: none of it is evidence that the worker is dead while it answers a probe itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from services.router.requests.worker_choice import AttentionWorkerView

KEPT_S = 3.0  # after a worker was listed, or has answered, for the last time: as long as its lease could have lasted

Probe = Callable[[AttentionWorkerView], Awaitable[bool]]


class KeptWorkers:
    """Which workers stay. Pure: no clock, no I/O; times are of any clock that advances."""

    def __init__(self) -> None:
        self._seen_at: dict[str, float] = {}  # by worker id: when it was listed or has answered

    def see(self, worker_ids: Iterable[str], now: float) -> None:
        """Takes workers that were there at that time."""
        self._seen_at |= dict.fromkeys(worker_ids, now)

    def missing(
        self, listed: Sequence[AttentionWorkerView], before: Sequence[AttentionWorkerView], now: float
    ) -> list[AttentionWorkerView]:
        """Those of `before` that are not listed and stay all the same; each is to be asked whether it is there."""
        ids = {worker.worker_id for worker in listed}
        self.see(ids, now)
        self._seen_at = {worker_id: at for worker_id, at in self._seen_at.items() if now - at < KEPT_S}
        gone = (worker for worker in before if worker.worker_id not in ids and not worker.draining)
        return [worker for worker in gone if worker.worker_id in self._seen_at]


class UnlistedWorkers:
    """One router's; for its event loop. `probe`: whether that run of a worker answers in time, and does not drain."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._kept = KeptWorkers()
        self._probing: dict[str, asyncio.Task[None]] = {}

    def add_to(
        self, listed: Sequence[AttentionWorkerView], before: Sequence[AttentionWorkerView]
    ) -> tuple[AttentionWorkerView, ...]:
        """Returns what is listed, and those of `before` that are not and still answer; starts to probe these."""
        now = time.monotonic()
        kept = self._kept.missing(listed, before, now)
        for worker in kept:
            if worker.worker_id not in self._probing:
                self._probing[worker.worker_id] = asyncio.ensure_future(self._ask(worker, now))
        return (*listed, *kept)

    def keep(self, workers: Sequence[AttentionWorkerView]) -> None:
        """Takes workers as listed now: Redis cannot be read, so nobody knows better."""
        self._kept.see((worker.worker_id for worker in workers), time.monotonic())

    def close(self) -> None:
        for task in self._probing.values():
            task.cancel()

    async def _ask(self, worker: AttentionWorkerView, asked_at: float) -> None:
        try:
            if await self._probe(worker):
                self._kept.see((worker.worker_id,), asked_at)
        finally:
            del self._probing[worker.worker_id]
