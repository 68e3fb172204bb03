"""Merges waiting calls for the same layer into one launch. It takes what has arrived and never waits for more.

The caller that gets the lock runs the launch for all waiting callers of its layer, on its own thread: a thread of the
batcher's own would cost two context switches per call. One launch runs at a time. When a merged launch raises, its
calls are repeated one by one, so that one caller's bad rows do not fail the others; each caller then gets the
exception of its own launch.
Legend: R rows (in a merged launch, all callers' rows concatenated), A (row, expert) assignments ascending by
(expert, row), D hidden, L layers, F FFN experts of a layer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.expert_worker.queue_time import QueueTimes

Compute = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class DeadlinePassed(TimeoutError):
    """The call's deadline passed before its launch; its rows were not computed."""


@dataclass(slots=True, eq=False)
class Job:
    """One caller's rows and assignments for one layer."""

    layer: int
    x_RD: Tensor
    row_A: Tensor
    expert_A: Tensor
    deadline: float  # time.monotonic
    arrived: float = 0.0  # time.monotonic
    y_AD: Tensor | None = None
    error: Exception | None = None
    done: bool = False


@dataclass(slots=True)
class BatchCounters:
    """Sums since the process started."""

    launches: int = 0
    calls: int = 0
    rows: int = 0
    assignments: int = 0
    failed: int = 0  # calls that got an exception
    busy_s: float = 0.0  # time in launches, also in those that raised
    progress: int = 0  # launches and idle ticks: stands still only while a launch runs


class Batcher:
    """Runs callers' jobs, oldest first, and merges those of one layer. Any thread may use it."""

    def __init__(self, compute: Compute, layers: int, experts: int, max_rows: int = 8192) -> None:
        self.counters = BatchCounters()
        self._assigned_LF = np.zeros((layers, experts), np.int64)  # its sum is `counters.assignments`
        self.queue_times = QueueTimes()
        self._compute = compute
        self._max_rows = max_rows
        self._waiting: deque[Job] = deque()
        self._turn = threading.Lock()
        self.launching: int | None = None  # the native id of the thread that runs a launch
        self.launch = (0, 0)  # the number of the last launch that was begun, and its assignments
        self._counting = threading.Lock()  # never held for long: who counts or reads must not wait for a launch

    def run(self, job: Job) -> Tensor:
        """The experts' outputs for the job, [A, D]. Blocks. Raises what its launch raised, or DeadlinePassed."""
        job.arrived = time.monotonic()
        self._waiting.append(job)
        while not job.done:
            with self._turn:
                if not job.done:
                    with self._launching():
                        self._serve(self._take())
        if job.error is not None:
            raise job.error
        assert job.y_AD is not None
        return job.y_AD

    def launch_merged(
        self, layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor, waited: Sequence[float]
    ) -> Tensor:
        """Runs one launch of calls that were merged already, [A, D]; `waited` has the seconds of each call until now.

        Blocks while another launch runs. Raises what the launch raised.
        """
        with self._turn:
            begun = time.monotonic()
            self._count_waits(waited, begun)
            try:
                with self._launching():
                    y_AD = self._begin(layer, x_RD, row_A, expert_A)
            except Exception:
                self._count_failed(len(waited) == 1)  # the calls of a merged launch are repeated one by one
                raise
            finally:
                self._count_busy(time.monotonic() - begun)
            self._count_launch(len(waited), len(x_RD), layer, expert_A)
        return y_AD

    def _begin(self, layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
        self.launch = (self.launch[0] + 1, len(expert_A))
        return self._compute(layer, x_RD, row_A, expert_A)

    @contextmanager
    def _launching(self) -> Iterator[None]:
        self.launching = threading.get_native_id()
        try:
            yield
        finally:
            self.launching = None

    @property
    def assigned_LF(self) -> NDArray[np.int64]:
        """The assignments of each (layer, expert) that were computed since the process started; a copy."""
        with self._counting:
            return self._assigned_LF.copy()

    def add(self, counts: tuple[int, int, int, int, float, list[float], NDArray[np.int64]]) -> None:
        """Adds launches that ran without Python.

        `counts`: launches, calls, rows, assignments, busy seconds, each call's wait, assignments by (layer, expert).
        """
        launches, calls, rows, assignments, busy_s, waited, assigned_N = counts
        self._count_waits(waited, time.monotonic())
        with self._counting:
            counters = self.counters
            self._assigned_LF += assigned_N.reshape(self._assigned_LF.shape)
            counters.launches += launches
            counters.progress += launches
            counters.calls += calls
            counters.rows += rows
            counters.assignments += assignments
            counters.busy_s += busy_s

    def count_late(self, waited: Sequence[float]) -> None:
        """Counts calls whose deadline passed before their launch."""
        self._count_waits(waited, time.monotonic())
        self._count_failed(len(waited))

    def tick(self) -> None:
        """Shows that the next launch could start; blocks while one is running."""
        with self._turn, self._counting:
            self.counters.progress += 1

    def _take(self) -> list[Job]:
        """Removes from the queue the oldest job and others of its layer, up to `max_rows` rows in all."""
        oldest = self._waiting.popleft()
        jobs, rows = [oldest], len(oldest.x_RD)
        others: list[Job] = []
        while self._waiting:
            job = self._waiting.popleft()
            fits = job.layer == oldest.layer and rows + len(job.x_RD) <= self._max_rows
            (jobs if fits else others).append(job)
            rows += len(job.x_RD) if fits else 0
        self._waiting.extendleft(reversed(others))
        return jobs

    def _serve(self, jobs: list[Job]) -> None:
        """Launches jobs and measures the time. Jobs past their deadline count into the queue times too."""
        begun = time.monotonic()
        self._count_waits([begun - job.arrived for job in jobs], begun)
        self._launch(jobs)
        self._count_busy(time.monotonic() - begun)

    def _launch(self, jobs: list[Job]) -> None:
        now = time.monotonic()
        late = [job for job in jobs if job.deadline < now]
        jobs = [job for job in jobs if job.deadline >= now]
        self._finish(late, DeadlinePassed("the deadline passed before the rows were computed"))
        if not jobs:
            return
        try:
            self._compute_jobs(jobs)
        except Exception as error:  # noqa: BLE001 - the callers get it; the next launch must run
            if len(jobs) == 1:
                self._finish(jobs, error)
            for job in jobs if len(jobs) > 1 else ():
                self._launch([job])

    def _compute_jobs(self, jobs: list[Job]) -> None:
        if len(jobs) == 1:
            job = jobs[0]
            outputs: list[Tensor] = [self._begin(job.layer, job.x_RD, job.row_A, job.expert_A)]
        else:
            outputs = self._merged(jobs)
        self._count_launch(
            len(jobs), sum(len(job.x_RD) for job in jobs), jobs[0].layer, *(job.expert_A for job in jobs)
        )
        for job, y_AD in zip(jobs, outputs, strict=True):
            job.y_AD, job.done = y_AD, True

    def _count_launch(self, calls: int, rows: int, layer: int, *experts_of_calls: Tensor) -> None:
        with self._counting:
            counters = self.counters
            counters.launches += 1
            counters.progress += 1
            counters.calls += calls
            counters.rows += rows
            for expert_A in experts_of_calls:
                counters.assignments += len(expert_A)
                self._assigned_LF[layer] += np.bincount(expert_A.numpy(), minlength=self._assigned_LF.shape[1])

    def _count_waits(self, waited: Sequence[float], now: float) -> None:
        with self._counting:
            for waited_s in waited:
                self.queue_times.count(waited_s, now)

    def _count_busy(self, busy_s: float) -> None:
        with self._counting:
            self.counters.busy_s += busy_s

    def _count_failed(self, calls: int) -> None:
        with self._counting:
            self.counters.failed += calls

    def _merged(self, jobs: list[Job]) -> list[Tensor]:
        """Runs one launch over several jobs; returns each job's outputs in the order of its assignments."""
        starts = [0]
        for job in jobs:
            starts.append(starts[-1] + len(job.x_RD))
        row_A = torch.cat([job.row_A + start for job, start in zip(jobs, starts, strict=False)])
        expert_A = torch.cat([job.expert_A for job in jobs])
        order_A = torch.argsort(expert_A, stable=True)
        # Rows of different links may be on different devices.
        x_RD = torch.cat([job.x_RD.to(jobs[0].x_RD.device) for job in jobs])
        merged_AD = self._begin(jobs[0].layer, x_RD, row_A[order_A], expert_A[order_A])
        y_AD = torch.empty_like(merged_AD)
        y_AD[order_A] = merged_AD
        parts = torch.split(y_AD, [len(job.row_A) for job in jobs])
        return [part.to(job.x_RD.device) for part, job in zip(parts, jobs, strict=True)]

    def _finish(self, jobs: list[Job], error: Exception) -> None:
        self._count_failed(len(jobs))
        for job in jobs:
            job.error, job.done = error, True
