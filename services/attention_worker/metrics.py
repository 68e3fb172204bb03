"""The attention worker's Prometheus metrics, read from the engine's and the dispatcher's counters at every scrape.

Request metrics have vLLM's names under `caracal:`; metrics without a counterpart in vLLM are `caracal_*`.

Counters are named without `_total`, which the client library adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from services.attention_worker.engine.drafting import DraftCounters
from services.attention_worker.engine.engine import Engine
from services.attention_worker.golden_check import GoldenCheck
from services.attention_worker.migration.stats import FALLBACKS, MigrationStats
from services.checkpoint.scrub import ScrubCounters
from services.router.dispatch.native_link import NativeStats
from services.router.dispatch.nccl_link import P2PStats
from services.router.dispatch.shadow_calls import ShadowStats
from services.router.dispatch.stats import DispatchStats


@dataclass(frozen=True)
class LinkStats:
    """The counters of links that have some of their own."""

    p2p: P2PStats
    native: NativeStats


class AttentionMetrics(Collector):
    """Collects the worker's metrics."""

    def __init__(
        self,
        engine: Engine,
        dispatch: DispatchStats,
        links: LinkStats,
        epoch: Callable[[], int],
        busy_rejections: Callable[[], int],
        migration: MigrationStats,
        suspects: Callable[[], int],
        shadow: ShadowStats,
        golden: GoldenCheck,
        scrubs: ScrubCounters,
    ) -> None:
        self._engine, self._busy_rejections = engine, busy_rejections
        self._dispatch, self._p2p, self._native = dispatch, links.p2p, links.native
        self._epoch, self._migration, self._suspects, self._shadow = epoch, migration, suspects, shadow
        self._golden, self._scrubs = golden, scrubs

    def collect(self) -> Iterator[Metric]:
        yield from self._requests()
        yield from self._layers()
        yield from self._wire()
        yield from self._computed_again()
        yield from self._migrations()
        yield _gauge("caracal_attention_epoch", "Epoch of the current placement table", self._epoch())

    def _requests(self) -> Iterator[Metric]:
        scheduler, counters = self._engine.scheduler, self._engine.counters
        pages = scheduler.pages
        yield _gauge("caracal:num_requests_running", "Sequences in the batch", len(scheduler.running))
        yield _gauge("caracal:num_requests_waiting", "Sequences waiting for admission", len(scheduler.waiting))
        yield _gauge("caracal:kv_cache_usage_perc", "Share of pages in use, 0 to 1", pages.used / pages.total)
        yield _count("caracal:num_preemptions", "Sequences preempted for lack of pages", scheduler.preemptions)
        yield _count("caracal:prefix_cache_queries", "Tokens of admitted sequences", scheduler.prefix_queries)
        yield _count("caracal:prefix_cache_hits", "Those of them that were cached", scheduler.prefix_hits)
        yield _gauge("caracal_prefix_cache_pages", "Pages that can be shared, used ones too", pages.named)
        yield _count("caracal_prefix_cache_evictions", "Shareable pages that were needed for others", pages.evictions)
        yield _count("caracal_prefix_cache_damaged", "Shareable pages found changed, not used again", pages.damaged)
        yield _gauge("caracal_prefix_cache_host_pages", "Pages in host memory", len(pages.host))
        yield _count("caracal_prefix_cache_host_loads", "Pages copied back from host memory", pages.host.loads)
        yield _count(
            "caracal_attention_busy_rejections", "Attempts rejected, too many being open", self._busy_rejections()
        )
        yield _count("caracal:prompt_tokens", "Prompt tokens of accepted requests", counters.prompt_tokens)
        yield _count("caracal:generation_tokens", "Tokens generated", counters.generation_tokens)
        yield _count("caracal_engine_steps", "Steps run", counters.steps)
        yield _count("caracal_engine_failed_steps", "Steps that failed with all their sequences", counters.failed_steps)
        yield _count(
            "caracal_engine_model_tokens", "Tokens through the model, recomputed ones too", counters.model_tokens
        )
        yield from self._drafts()
        info = InfoMetricFamily("caracal:cache_config", "Sizes of the paged latent cache")
        info.add_metric((), {"block_size": str(pages.page_size), "num_gpu_blocks": str(pages.total)})
        yield info

    def _drafts(self) -> Iterator[Metric]:
        most = self._engine.limits.drafts
        counters = DraftCounters() if self._engine.drafter is None else self._engine.drafter.counters
        yield _count(
            "caracal:spec_decode_num_drafts", "Drafts that were verified, one per answer and step", counters.drafts
        )
        yield _count("caracal:spec_decode_num_draft_tokens", "Tokens drafted", counters.tokens)
        yield _count("caracal:spec_decode_num_accepted_tokens", "Tokens drafted right", sum(counters.accepted))
        accepted = CounterMetricFamily(
            "caracal:spec_decode_num_accepted_tokens_per_pos",
            "Tokens drafted right, by their place in the draft",
            labels=("position",),
        )
        for place, count in enumerate(counters.accepted[:most]):
            accepted.add_metric((str(place),), count)
        yield accepted
        yield _count("caracal_engine_failed_drafts", "Steps after which drafting failed", counters.failed)

    def _migrations(self) -> Iterator[Metric]:
        stats = self._migration
        for name, text, sent, received in (
            ("caracal_kv_migrated_pages", "Pages between workers", stats.pages_sent, stats.pages_received),
            ("caracal_kv_migrated_bytes", "Their bytes", stats.bytes_sent, stats.bytes_received),
        ):
            family = CounterMetricFamily(name, text, labels=("direction",))
            family.add_metric(("sent",), sent)
            family.add_metric(("received",), received)
            yield family
        yield _count("caracal_kv_migrations", "Sequences all of whose pages were taken over", stats.migrated)
        fallbacks = CounterMetricFamily(
            "caracal_kv_migration_fallbacks", "Sequences whose pages were not all taken over", labels=("reason",)
        )
        for reason in FALLBACKS:
            fallbacks.add_metric((reason,), stats.fallbacks[reason])
        yield fallbacks

    def _layers(self) -> Iterator[Metric]:
        exposed = CounterMetricFamily(
            "caracal_moe_exposed_seconds", "Time spent waiting for experts", labels=("layer",)
        )
        round_trip = CounterMetricFamily(
            "caracal_moe_round_trip_seconds", "Time from sending rows to the last reply", labels=("layer",)
        )
        choices = CounterMetricFamily(
            "caracal_moe_choices", "Top-k choices, by kind of expert: ffn or zero", labels=("layer", "kind")
        )
        yield _count("caracal_engine_native_layers", "Layers run without Python", self._dispatch.native_layer_calls)
        for index, layer in enumerate(self._dispatch.layers):
            exposed.add_metric((str(index),), layer.exposed_s)
            round_trip.add_metric((str(index),), layer.round_trip_s)
            choices.add_metric((str(index), "ffn"), layer.ffn_choices)
            choices.add_metric((str(index), "zero"), layer.choices - layer.ffn_choices)
        yield from (exposed, round_trip, choices)

    def _computed_again(self) -> Iterator[Metric]:
        shadow = self._shadow
        yield _count("caracal_shadow_calls", "Calls to expert workers made to compare their rows", shadow.calls)
        yield _count("caracal_shadow_assignments", "(row, expert) assignments compared bit for bit", shadow.assignments)
        yield _count("caracal_shadow_differences", "Such calls whose rows differ", shadow.differences)
        yield _count("caracal_shadow_undecided", "Of these, where nobody knows which worker is wrong", shadow.undecided)
        yield _count("caracal_shadow_unanswered", "Calls made to compare that brought nothing", shadow.unanswered)
        yield _count("caracal_shadow_failures", "Layers whose calls could not be compared", shadow.failures)
        yield _count("caracal_shadow_dropped", "Layers not computed again, since others waited for it", shadow.dropped)
        yield _count("caracal_shadow_convicted", "Expert workers found to compute wrongly", shadow.convicted)
        scrubs, golden = self._scrubs, self._golden
        yield _count("caracal_scrub_rounds", "Times that all weights in memory were compared", scrubs.rounds)
        yield _count("caracal_scrub_failures", "Weights that could not be compared", scrubs.failures)
        yield _count("caracal_golden_rounds", "Times that the golden tokens gave the same bits again", golden.rounds)
        yield _count("caracal_golden_differences", "Times that they gave others", golden.differences)
        yield _count("caracal_golden_seconds", "Time of the engine's thread for golden tokens", golden.seconds)

    def _wire(self) -> Iterator[Metric]:
        total = self._dispatch.total()
        size = CounterMetricFamily("caracal_dispatch_bytes", "Payload bytes of hidden rows", labels=("direction",))
        size.add_metric(("sent",), total.bytes_sent)
        size.add_metric(("received",), total.bytes_received)
        yield size
        yield _count(
            "caracal_dispatch_bytes_if_all_ffn",
            "Received bytes if no choice were a zero expert",
            total.bytes_if_all_ffn,
        )
        yield _count("caracal_dispatch_rows", "Rows sent, once per worker", total.rows_sent)
        yield _count("caracal_dispatch_assignments", "(row, expert) assignments sent", total.assignments_sent)
        yield _count(
            "caracal_dispatch_tokens_all_zero", "Tokens of a layer with zero experts only", total.tokens_all_zero
        )
        yield _count("caracal_dispatch_retries", "Messages sent again", total.retries)
        yield _count(
            "caracal_dispatch_stale_epoch_rejections", "Calls rejected for their epoch", total.stale_epoch_rejections
        )
        yield _count("caracal_dispatch_hedges", "Messages sent beside a call that was overdue", total.hedges)
        yield _count("caracal_dispatch_hedges_won", "Calls whose rows came from such messages", total.hedges_won)
        yield _gauge("caracal_dispatch_suspects", "Expert workers that are avoided now", self._suspects())
        native = self._native
        yield _count("caracal_native_calls", "Messages sent over native sessions", native.calls)
        yield _count(
            "caracal_native_fallback_calls", "Messages of the native link that went over gRPC", native.over_grpc
        )
        yield _count("caracal_native_sessions_opened", "Native sessions opened to expert workers", native.opened)
        yield _count("caracal_native_open_failures", "Native sessions that could not be opened", native.failed)
        yield _count("caracal_native_sessions_broken", "Native sessions that ended by themselves", native.broken)
        yield _count("caracal_p2p_calls", "Messages whose rows went over a P2P group", self._p2p.calls)
        yield _count("caracal_p2p_groups_connected", "P2P groups connected to expert workers", self._p2p.connected)
        yield _count("caracal_p2p_connect_failures", "P2P groups that failed to connect", self._p2p.failed)
        yield _count("caracal_p2p_groups_broken", "P2P groups that broke after they were connected", self._p2p.broken)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _count(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value)
