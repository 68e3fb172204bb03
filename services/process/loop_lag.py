"""Measures how late an event loop runs what is due: whatever holds the loop delays every request by as much."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

TICK_S = 0.1
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class LoopLag(Collector):
    """The metrics caracal_event_loop_lag_seconds and caracal_event_loop_tasks of one loop.

    Samples at fixed intervals see what a request would that comes at any moment: of a stall that is shorter than the
    interval, a share. A tick costs microseconds, for it comes all day: no task, no lock.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        registry.register(self)

    async def watch(self) -> None:
        """Measures the loop that it runs on until cancelled."""
        loop = self._loop = asyncio.get_running_loop()
        due_s, timer = 0.0, loop.call_later(0, lambda: None)

        def tick() -> None:
            nonlocal due_s, timer
            if due_s:
                self._count(max(0.0, time.monotonic() - due_s))
            due_s = time.monotonic() + TICK_S
            timer = loop.call_later(TICK_S, tick)

        try:
            tick()
            await loop.create_future()
        finally:
            timer.cancel()

    def _count(self, lag_s: float) -> None:
        self._counts[bisect_left(BOUNDS_S, lag_s)] += 1
        self._sum_s += lag_s

    def collect(self) -> Iterator[Metric]:
        bounds = [*map(str, BOUNDS_S), "+Inf"]
        yield HistogramMetricFamily(
            "caracal_event_loop_lag_seconds",
            f"How late the event loop ran a timer, every {TICK_S:g} s",
            buckets=list(zip(bounds, accumulate(self._counts), strict=True)),
            sum_value=self._sum_s,
        )
        tasks = len(asyncio.all_tasks(self._loop)) if self._loop else 0
        yield GaugeMetricFamily("caracal_event_loop_tasks", "Tasks of the event loop that have not ended", tasks)
