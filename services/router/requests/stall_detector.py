"""Finds attention workers with open attempts that send nothing: they have died silently, or hang with sockets open.

How busy a worker or this router is does not matter: probes have a time limit that the lag of this router's own loop
does not use up.

Silence says nothing by itself, since an attempt may wait in a queue. But how long workers take to answer probes is
known, because they are probed all the time: where an answer is late by that measure, and another worker answers
meanwhile, the attempts go there at once (`probe_times.py`). The worker is a suspect until an answer of it is in time.

`silent_workers.py` decides who is probed and who is given up.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Protocol

import structlog

from services.process.loop_time import ends_within
from services.router.requests.probe_times import FALSE_WITHIN, Alarms, ProbeTimes
from services.router.requests.silent_workers import OpenAttempt, ReceivedAt, SilentWorkers, StallTimeouts
from services.router.requests.worker_choice import AttentionWorkerView, choose_worker

log = structlog.get_logger(__name__)

QUIET_LOOKS = 3  # so many at workers that are quiet for one at all attempts: these may be many, workers are few
LOOK_AGAIN_S = 0.05  # for another worker, while one is late
LAGS = 2.0  # times a limit's length that it takes where this loop is held up: then it cannot tell who is late

Probe = Callable[[AttentionWorkerView], Awaitable[bool]]


class WatchedAttempt(OpenAttempt, Protocol):
    """What is used of an attempt here; services.router.requests.attempt.Attempt is one."""

    @property
    def number(self) -> int: ...

    def abandon(self) -> None: ...

    def expire(self) -> None: ...


class StallDetector:
    """Abandons the attempts of dead workers. `probe`: whether a worker answers in time. `received_at`: when the last
    message came from it, by the clock `now`. `warn` takes what was found, as structlog's `warning` is."""

    def __init__(
        self,
        probe: Probe,
        received_at: ReceivedAt,
        timeouts: StallTimeouts,
        now: Callable[[], float] = time.monotonic,
        warn: Callable[..., Any] | None = None,
    ) -> None:
        self._probe, self._received_at, self._now = probe, received_at, now
        self._warn = log.warning if warn is None else warn
        self._timeouts, self._silent = timeouts, SilentWorkers(timeouts)
        self._probing: dict[str, asyncio.Task[None]] = {}
        self._answered_at: dict[str, float] = {}  # when a probe was, for the last time
        self._times, self._alarms = ProbeTimes(), Alarms()

    @property
    def suspects(self) -> set[str]:
        """The ids of workers that did not answer their last probe, or were late with it."""
        return self._silent.suspects

    @property
    def probing(self) -> bool:
        """Whether some probe has not ended."""
        return bool(self._probing)

    def look(
        self,
        number: int,
        workers: Collection[AttentionWorkerView],
        attempts: Collection[WatchedAttempt],
        open_on: Mapping[str, int],
    ) -> None:
        """One of the looks between two readings of the list: `check`, each few times or where a worker with attempts
        is quiet. `open_on`: how many attempts, by worker id."""
        if number % QUIET_LOOKS == QUIET_LOOKS - 1 or self._someone_is_quiet(workers, open_on):
            self.check(workers, attempts)

    def _someone_is_quiet(self, workers: Collection[AttentionWorkerView], open_on: Mapping[str, int]) -> bool:
        """Whether nothing has come from some worker with attempts for so long that it is probed."""
        since = self._now() - self._timeouts.probe_after_s
        return any(not self._came_since(worker, since) for worker in workers if open_on.get(worker.worker_id, 0))

    def check(
        self, workers: Collection[AttentionWorkerView], attempts: Collection[WatchedAttempt], *, everybody: bool = False
    ) -> None:
        """Starts probes of silent workers, or of all that serve, without waiting for any probe; ends requests without
        progress."""
        now = self._now()
        for attempt in self._silent.without_progress(attempts, now):
            self._warn("a request makes no progress", worker=attempt.worker.worker_id, attempt=attempt.number)
            attempt.expire()
        due = self._silent.to_probe(workers, attempts, self._came_at, now, everybody=everybody)
        if everybody:
            listed = {worker.worker_id for worker in workers}
            self._answered_at = {name: at for name, at in self._answered_at.items() if name in listed}
            self._times.keep_only(listed)
            self._alarms.keep_only(listed)
        for worker in due:
            if worker.worker_id not in self._probing:
                self._probing[worker.worker_id] = asyncio.ensure_future(self._check_worker(worker, workers, attempts))

    def close(self) -> None:
        for task in self._probing.values():
            task.cancel()

    async def _check_worker(
        self,
        worker: AttentionWorkerView,
        workers: Collection[AttentionWorkerView],
        attempts: Collection[WatchedAttempt],
    ) -> None:
        name, probed_at = worker.worker_id, self._now()
        probe = asyncio.ensure_future(self._timed_probe(worker))
        try:
            late_s = self._times.late_after(name)
            late = await self._is_late(worker, probe, probed_at, late_s)
            alarmed = late and await self._alarm(worker, probe, probed_at, workers, attempts)
            alive = await probe or self._came_since(worker, probed_at)
        finally:
            probe.cancel()
            del self._probing[name]
        if alive and late:
            if alarmed and self._now() < probed_at + FALSE_WITHIN * late_s:
                self._alarms.was_false(name, self._now())
            return
        if not self._silent.is_given_up(worker, alive=alive, listed=workers, now=self._now()):
            return
        given_up = self._abandon(name, attempts, probed_at)
        if given_up:
            listed = not self._silent.is_missing(name)
            self._warn("attention worker does not answer", worker=name, listed=listed, attempts=given_up)

    async def _is_late(
        self, worker: AttentionWorkerView, probe: asyncio.Future[bool], probed_at: float, late_s: float
    ) -> bool:
        """Whether nothing comes of the worker in time, as far as this loop, if it is not held up, can tell."""
        while math.isfinite(late_s):
            began = self._now()
            if await ends_within(late_s, probe) or self._came_since(worker, probed_at):
                return False
            if self._now() < began + LAGS * late_s:
                return True
        return False

    async def _alarm(
        self,
        worker: AttentionWorkerView,
        probe: asyncio.Future[bool],
        probed_at: float,
        workers: Collection[AttentionWorkerView],
        attempts: Collection[WatchedAttempt],
    ) -> bool:
        """Gives up a worker with a lease whose answer is late, as soon as another one answers; whether it has."""
        name = worker.worker_id
        while not (
            self._silent.is_missing(name) or name in self.suspects or self._has_answered(worker, probe, probed_at)
        ):
            other = await self._another(worker, workers, probed_at)
            if other is None:  # everything is late: the machine, or the network
                await ends_within(LOOK_AGAIN_S, probe)
            elif self._has_answered(worker, probe, probed_at) or not self._alarms.take(name, self._now()):
                break
            else:
                self.suspects.add(name)
                given_up = self._abandon(name, attempts, math.inf)  # also those that have begun since
                self._warn("attention worker is late", worker=name, other=other.worker_id, attempts=given_up)
                return True
        return False

    def _has_answered(self, worker: AttentionWorkerView, probe: asyncio.Future[bool], probed_at: float) -> bool:
        return probe.done() or self._came_since(worker, probed_at)

    async def _another(
        self, worker: AttentionWorkerView, workers: Collection[AttentionWorkerView], since: float
    ) -> AttentionWorkerView | None:
        """A worker that could take its sequences over, and of which something has come since then or comes now."""
        late = {worker.worker_id}
        while (other := self._other(worker, workers, late)) is not None:
            if self._came_since(other, since) or await self._answers_in_time(other):
                return other
            late.add(other.worker_id)
        return None

    def _other(
        self, worker: AttentionWorkerView, workers: Collection[AttentionWorkerView], late: Collection[str]
    ) -> AttentionWorkerView | None:
        """A worker that could take its sequences over, and is neither a suspect nor among those that are `late`."""
        avoided = {*self.suspects, *late, worker.worker_id}
        other = choose_worker(workers, {}, numerics_class=worker.numerics_class, avoid=avoided)
        return None if other is None or other.worker_id in avoided else other

    def _came_since(self, worker: AttentionWorkerView, since: float) -> bool:
        """Whether anything has come from the worker since then, an answer to a probe included."""
        return self._came_at(worker) >= since

    def _came_at(self, worker: AttentionWorkerView) -> float:
        return max(self._received_at(worker), self._answered_at.get(worker.worker_id, -math.inf))

    async def _answers_in_time(self, worker: AttentionWorkerView) -> bool:
        probe = asyncio.ensure_future(self._timed_probe(worker))
        try:
            return await ends_within(self._times.late_after(worker.worker_id), probe) and probe.result()
        finally:
            probe.cancel()

    async def _timed_probe(self, worker: AttentionWorkerView) -> bool:
        asked_at = self._now()
        answered = await self._probe(worker)
        if answered:
            now = self._answered_at[worker.worker_id] = self._now()
            self._times.add(worker.worker_id, now - asked_at)
        return answered

    def _abandon(self, name: str, attempts: Collection[WatchedAttempt], before: float) -> int:
        """Abandons the worker's attempts of which nothing has come since `before`; returns how many."""
        given_up = [
            attempt
            for attempt in attempts
            if attempt.worker.worker_id == name and not attempt.complete and attempt.last_event_at < before
        ]
        for attempt in given_up:
            attempt.abandon()
        return len(given_up)
