"""What a router that leads has done to the placement, as Prometheus sees it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class PlacementMetrics(Collector):
    """Sums since the router started. `balancedness` is NaN while no load is known."""

    def __init__(self) -> None:
        self.tables = self.loaded = self.quarantined = 0
        self.balancedness = math.nan

    def show(self, registry: CollectorRegistry) -> None:
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily("caracal_placement_tables", "Placement tables published by this router", self.tables)
        yield CounterMetricFamily(
            "caracal_placement_experts_loaded", "Experts that workers have loaded for these tables", self.loaded
        )
        yield GaugeMetricFamily(
            "caracal_quarantined_workers",
            "Workers that compute wrongly, and are left out, as the leader sees them; 0 on other routers",
            self.quarantined,
        )
        yield GaugeMetricFamily(
            "caracal_placement_balancedness",
            "Mean / greatest load of expert workers in a layer, averaged over layers, by the last reading; NaN before",
            self.balancedness,
        )
