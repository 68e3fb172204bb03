"""What Prometheus is told: engine counters and the exchange's sums, read when it asks. Nothing is counted twice.

Request metrics carry vLLM's names under `caracal:`; what only this cluster has is `caracal_*`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from services.attention_worker.engine.engine import Engine
from services.router.dispatch.nccl_link import P2PStats
from services.router.dispatch.stats import DispatchStats


class WorkerMetrics(Collector):
    """Reads engine and exchange at every scrape."""

    def __init__(self, engine: Engine, dispatch: DispatchStats, pairs: P2PStats, epoch: Callable[[], int]) -> None:
        self._engine = engine
        self._dispatch, self._pairs = dispatch, pairs
        self._epoch = epoch

    def collect(self) -> Iterator[Metric]:
        yield from self._requests()
        yield from self._layers()
        yield from self._wire()
        yield _gauge("caracal_attention_epoch", "Of the placement in force here", self._epoch())

    def _requests(self) -> Iterator[Metric]:
        scheduler, counters = self._engine.scheduler, self._engine.counters
        pages = scheduler.pages
        yield _gauge("caracal:num_requests_running", "Sequences in the batch", len(scheduler.running))
        yield _gauge("caracal:num_requests_waiting", "Sequences waiting for a place", len(scheduler.waiting))
        yield _gauge("caracal:kv_cache_usage_perc", "Share of pages in use, 0 to 1", pages.used / pages.total)
        yield _count("caracal:num_preemptions", "Sequences put back to wait for pages", scheduler.preemptions)
        yield _count("caracal:prompt_tokens", "Prompt tokens of accepted requests", counters.prompt_tokens)
        yield _count("caracal:generation_tokens", "Tokens generated", counters.generation_tokens)
        yield _count("caracal_engine_steps", "Steps run", counters.steps)
        yield _count("caracal_engine_failed_steps", "Steps that failed with all their sequences", counters.failed_steps)
        yield _count(
            "caracal_engine_model_tokens", "Tokens through the model, recomputed ones too", counters.model_tokens
        )
        info = InfoMetricFamily("caracal:cache_config", "Sizes of the paged latent cache")
        info.add_metric((), {"block_size": str(pages.page_size), "num_gpu_blocks": str(pages.total)})
        yield info

    def _layers(self) -> Iterator[Metric]:
        exposed = CounterMetricFamily("caracal_moe_exposed_seconds", "Waited for experts", labels=("layer",))
        round_trip = CounterMetricFamily("caracal_moe_round_trip_seconds", "Sent until answered", labels=("layer",))
        choices = CounterMetricFamily(
            "caracal_moe_choices", "Top-k choices by what they chose", labels=("layer", "kind")
        )
        for index, layer in enumerate(self._dispatch.layers):
            exposed.add_metric((str(index),), layer.exposed_s)
            round_trip.add_metric((str(index),), layer.round_trip_s)
            choices.add_metric((str(index), "ffn"), layer.ffn_choices)
            choices.add_metric((str(index), "zero"), layer.choices - layer.ffn_choices)
        yield from (exposed, round_trip, choices)

    def _wire(self) -> Iterator[Metric]:
        total = self._dispatch.total()
        size = CounterMetricFamily("caracal_dispatch_bytes", "Payload bytes of hidden rows", labels=("direction",))
        size.add_metric(("sent",), total.bytes_sent)
        size.add_metric(("received",), total.bytes_received)
        yield size
        yield _count("caracal_dispatch_bytes_if_all_ffn", "What all choices would bring back", total.bytes_if_all_ffn)
        yield _count("caracal_dispatch_rows", "Rows sent, once per worker", total.rows_sent)
        yield _count("caracal_dispatch_assignments", "(row, expert) pairs asked for", total.assignments_sent)
        yield _count("caracal_dispatch_tokens_all_zero", "Tokens of a layer that sent nothing", total.tokens_all_zero)
        yield _count("caracal_dispatch_retries", "Messages sent again", total.retries)
        yield _count(
            "caracal_dispatch_stale_epoch_rejections", "Calls refused for their epoch", total.stale_epoch_rejections
        )
        yield _count("caracal_p2p_calls", "Messages whose rows went over a pair", self._pairs.calls)
        yield _count("caracal_p2p_groups_connected", "P2P groups connected to expert workers", self._pairs.met)
        yield _count("caracal_p2p_connect_failures", "P2PRegistry that did not come about", self._pairs.failed)
        yield _count("caracal_p2p_groups_broken", "P2PRegistry that ended before their link did", self._pairs.broken)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _count(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value)
