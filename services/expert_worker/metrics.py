"""The expert worker's Prometheus metrics, read from the batcher and the placement state at every scrape.

Counters are named without `_total`, which the client library adds. No expert has a series of its own: a model has
thousands. The hottest and the coldest few are named by rank, with layer and id as values; as labels they would leave a
new series behind whenever another expert takes a rank.
Legend: L layers, F FFN experts of a layer, N loaded experts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from caracal_proto.loads import WorkerLoad
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.checkpoint.scrub import ScrubCounters
from services.expert_worker.batcher import Batcher
from services.expert_worker.load import TAU_S
from services.expert_worker.placement_state import PlacementState
from services.expert_worker.queue_time import WINDOW_S
from services.expert_worker.service import ExpertService

RANKS = 5


class ExpertMetrics(Collector):
    """Collects the worker's metrics."""

    def __init__(self, batcher: Batcher, state: PlacementState, service: ExpertService, scrubs: ScrubCounters) -> None:
        self._batcher, self._state, self._service, self._scrubs = batcher, state, service, scrubs

    def collect(self) -> Iterator[Metric]:
        load = self._service.measure_load()  # first: it takes in what native sessions have counted
        yield from self._calls()
        yield from self._native_sessions()
        yield from self._queue()
        yield from self._load(load)
        loaded, epoch = int(self._state.experts.loaded_LE.sum()), self._state.epoch
        yield GaugeMetricFamily("caracal_expert_loaded_experts", "Experts loaded, over all layers", loaded)
        yield CounterMetricFamily(
            "caracal_expert_repaired",
            "Experts that were read again since their weights had changed in memory",
            self._state.experts.repaired,
        )
        scrubs = self._scrubs
        for name, text, value in (
            ("caracal_scrub_rounds", "Times that all weights in memory were compared", scrubs.rounds),
            ("caracal_scrub_failures", "Weights that could not be compared, or read again", scrubs.failures),
        ):
            yield CounterMetricFamily(name, text, value)
        yield GaugeMetricFamily("caracal_expert_epoch", "Epoch of the current placement table", epoch)

    def _load(self, load: WorkerLoad) -> Iterator[Metric]:
        rate_N, (layer_N, expert_N) = load.rate_LF[load.loaded_LF], np.nonzero(load.loaded_LF)
        yield GaugeMetricFamily(
            "caracal_expert_load_mean",
            f"Assignments per second of an expert over about {TAU_S:g} s; mean over the loaded experts",
            rate_N.mean() if len(rate_N) else 0.0,
        )
        yield GaugeMetricFamily(
            "caracal_expert_load_max", "Assignments per second of the hottest loaded expert", rate_N.max(initial=0.0)
        )
        rate, layer, expert = (
            GaugeMetricFamily(f"caracal_expert_load_ranked{suffix}", text, labels=("end", "rank"))
            for suffix, text in (
                ("", f"Assignments per second of the {RANKS} hottest and {RANKS} coldest loaded experts"),
                ("_layer", "Layer of the expert of that rank"),
                ("_expert", "Id of the expert of that rank in its layer"),
            )
        )
        ascending_N = np.argsort(rate_N, kind="stable")
        for end, ranked in (("hottest", ascending_N[::-1][:RANKS]), ("coldest", ascending_N[:RANKS])):
            for rank, index in enumerate(ranked, 1):
                for family, value_N in ((rate, rate_N), (layer, layer_N), (expert, expert_N)):
                    family.add_metric((end, str(rank)), value_N[index])
        yield from (rate, layer, expert)

    def _calls(self) -> Iterator[Metric]:
        counters = self._batcher.counters
        for name, text, value in (
            ("caracal_expert_launches", "Launches; each may serve several callers", counters.launches),
            ("caracal_expert_calls", "Calls that were computed", counters.calls),
            ("caracal_expert_rows", "Rows of those calls", counters.rows),
            ("caracal_expert_assignments", "(row, expert) assignments computed", counters.assignments),
            ("caracal_expert_failed_calls", "Calls whose launch raised or came too late", counters.failed),
            (
                "caracal_expert_rejected_calls",
                "Calls answered with another status than OK",
                self._service.rejected_calls,
            ),
            ("caracal_expert_native_calls", "Calls answered over native sessions", self._service.native_calls),
            ("caracal_expert_p2p_calls", "Calls whose rows came over a P2P group", self._service.over_p2p),
        ):
            yield CounterMetricFamily(name, text, value)
        yield CounterMetricFamily("caracal_expert_busy_seconds", "Time in launches", counters.busy_s)

    def _native_sessions(self) -> Iterator[Metric]:
        native = self._service.native
        counters = native.counters if native is not None else None
        open_now = native.sessions if native is not None else 0
        opened, refused = (counters.opened, counters.refused) if counters is not None else (0, 0)
        yield GaugeMetricFamily("caracal_expert_native_sessions", "Native sessions that are open", open_now)
        yield CounterMetricFamily("caracal_expert_native_sessions_opened", "Native sessions opened", opened)
        yield CounterMetricFamily(
            "caracal_expert_native_connections_refused", "Connections that ended without a valid token", refused
        )

    def _queue(self) -> Iterator[Metric]:
        times = self._batcher.queue_times
        yield HistogramMetricFamily(
            "caracal_expert_queue_seconds",
            "Time from a call's arrival to the start of its launch",
            buckets=times.buckets(),
            sum_value=times.sum_s,
        )
        # Kubernetes quantities stop at thousandths of a unit: in seconds, the HPA would see whole milliseconds.
        yield GaugeMetricFamily(
            "caracal_expert_queue_recent_milliseconds",
            f"Mean queue time over the last {WINDOW_S} s, 0 without calls",
            1000 * times.recent_s(time.monotonic()),
        )
