"""Metrics of admission: how much waits, for how long, and what was refused."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

WAIT_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0)


class AdmissionMetrics:
    """The metrics of one router's admission."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._queued = Gauge(
            "caracal_gateway_queued_sequences", "Sequences that wait for a place of a worker", registry=registry
        )
        self._in_use = Gauge("caracal_gateway_places_used", "Places of workers that sequences hold", registry=registry)
        self._places = Gauge("caracal_gateway_places", "Places of workers that this router may use", registry=registry)
        self.waited = Histogram(
            "caracal_gateway_queue_seconds",
            "Time that sequences waited for a place",
            buckets=WAIT_BUCKETS,
            registry=registry,
        )
        self._counters: dict[tuple[str, str], Counter] = {}  # looking one up takes longer than counting
        self._rejected = Counter(
            "caracal_gateway_rejected",
            "Requests refused by admission: whose share was used up, caller or cluster, and of what",
            ["whose", "reason"],
            registry=registry,
        )

    def show(self, queued: Callable[[], int], in_use: Callable[[], int], places: Callable[[], int]) -> None:
        """Reads the gauges from these at every scrape."""
        for gauge, read in ((self._queued, queued), (self._in_use, in_use), (self._places, places)):
            gauge.set_function(read)

    def rejected(self, whose: str, reason: str) -> Counter:
        counter = self._counters.get((whose, reason))
        if counter is None:
            counter = self._counters[whose, reason] = self._rejected.labels(whose, reason)
        return counter
