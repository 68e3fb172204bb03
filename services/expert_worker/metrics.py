"""What Prometheus is told: the batcher's counters and what is held, read when it asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.expert_worker.batcher import BatchCounters
from services.expert_worker.holding import Holding
from services.expert_worker.service import ExpertService


class WorkerMetrics(Collector):
    """Reads the worker at every scrape."""

    def __init__(self, counters: BatchCounters, holding: Holding, service: ExpertService) -> None:
        self._counters, self._holding, self._service = counters, holding, service

    def collect(self) -> Iterator[Metric]:
        counters, holding, service = self._counters, self._holding, self._service
        for name, text, value in (
            ("caracal_expert_launches", "Launches; each may serve several callers", counters.launches),
            ("caracal_expert_calls", "Calls that were computed", counters.calls),
            ("caracal_expert_rows", "Rows of those calls", counters.rows),
            ("caracal_expert_pairs", "(row, expert) pairs computed", counters.pairs),
            ("caracal_expert_failed_calls", "Calls whose launch raised or came too late", counters.failed),
            ("caracal_expert_refused_calls", "Calls answered with another status than OK", service.refused),
        ):
            yield CounterMetricFamily(name, text, value)
        yield GaugeMetricFamily("caracal_expert_held", "Experts held, over all layers", len(holding.experts.held))
        yield GaugeMetricFamily("caracal_expert_epoch", "Of the placement in force here", holding.epoch)
