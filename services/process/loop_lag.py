"""Measures how late an event loop runs what is due: whatever holds the loop delays every request by as much."""

from __future__ import annotations

import asyncio
import time

from prometheus_client import CollectorRegistry, Histogram

TICK_S = 0.02
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class LoopLag:
    """The metric caracal_event_loop_lag_seconds of one loop.

    Samples at fixed intervals see what a request would that comes at any moment: of a stall that is shorter than the
    interval, a share.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "caracal_event_loop_lag_seconds",
            f"How late the event loop ran a timer, every {TICK_S:g} s",
            buckets=BUCKETS,
            registry=registry,
        )

    async def watch(self) -> None:
        """Measures the loop that it runs on until cancelled."""
        while True:
            due = time.monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            self._seconds.observe(max(0.0, time.monotonic() - due))
