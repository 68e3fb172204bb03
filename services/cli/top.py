"""What `caracal top` shows: rates and percentiles of one interval, from two readings of a cluster. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from services.membership.overview import Overview
from services.membership.record import WorkerRecord
from services.membership.worker_order import ordinal

REQUESTS = ("caracal:request_success_total", "caracal:request_failure_total")
FIRST_TOKEN, BETWEEN_TOKENS = "caracal:time_to_first_token_seconds", "caracal:inter_token_latency_seconds"
TOKENS = "caracal:generation_tokens_total"
EXPOSED, ROUND_TRIP = "caracal_moe_exposed_seconds_total", "caracal_moe_round_trip_seconds_total"
STEPS = "caracal_engine_steps_total"
CHOICES, BUSY = "caracal_moe_choices_total", "caracal_expert_busy_seconds_total"
Samples = dict[tuple[str, str], float]  # (name, the label that tells its samples apart) -> value
LABELS = {CHOICES: "kind", f"{FIRST_TOKEN}_bucket": "le", f"{BETWEEN_TOKENS}_bucket": "le"}


@dataclass(frozen=True, slots=True)
class Reading:
    """A cluster at one moment. `at`: seconds of a monotonic clock; `pages`: samples of /metrics by worker."""

    at: float
    overview: Overview
    pages: Mapping[str, Samples] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A worker over the interval. None = it is not known, or does not apply to its role."""

    worker: str
    role: str
    state: str
    tokens_per_s: float | None = None
    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None  # 0 to 1
    experts: int | None = None
    busy: float | None = None  # share of the interval in launches
    zero_share: float | None = None  # of choices
    exposed_ms: float | None = None  # waiting for experts, per step
    exposed_share: float | None = None  # of the round trip to experts
    requests_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """A cluster over an interval. Times in milliseconds; None where no request gave a value."""

    interval_s: float
    requests_per_s: float
    tokens_per_s: float
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    itl_p50_ms: float | None
    itl_p99_ms: float | None
    workers: tuple[WorkerRow, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse_page(text: str) -> Samples:
    """Sums the samples of a /metrics page by name and, for some, by one label. Raises ValueError."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, str(sample.labels.get(LABELS.get(sample.name, ""), ""))
            found[key] = found.get(key, 0.0) + float(sample.value)
    return found


def compare(before: Reading, now: Reading) -> Top:
    """What happened between two readings."""
    seconds = max(now.at - before.at, 1e-9)
    older = {record.worker_id: record for record in before.overview.workers}
    rows = [
        _row(record, older.get(record.worker_id), _grown(before, now, record), seconds)
        for record in sorted(
            now.overview.workers, key=lambda one: (one.role != "router", one.role, ordinal(one.worker_id))
        )
    ]
    routers = [_grown(before, now, one) for one in now.overview.workers if one.role == "router"]
    ttft, itl = _histogram(routers, FIRST_TOKEN), _histogram(routers, BETWEEN_TOKENS)
    return Top(
        interval_s=seconds,
        requests_per_s=sum(row.requests_per_s or 0.0 for row in rows),
        tokens_per_s=sum(row.tokens_per_s or 0.0 for row in rows if row.role == "attention"),
        ttft_p50_ms=quantile(ttft, 0.5),
        ttft_p99_ms=quantile(ttft, 0.99),
        itl_p50_ms=quantile(itl, 0.5),
        itl_p99_ms=quantile(itl, 0.99),
        workers=tuple(rows),
    )


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """A quantile of a histogram in milliseconds, interpolated within its bucket as Prometheus does; None if empty.

    `buckets`: (upper bound in seconds, values up to it), by bound, with inf last.
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for bound, count in buckets:
        if count >= rank and count > below:
            inside = (rank - below) / (count - below)
            return (lower if math.isinf(bound) else lower + (bound - lower) * inside) * 1e3
        lower, below = (lower if math.isinf(bound) else bound), count
    return lower * 1e3


def _row(record: WorkerRecord, older: WorkerRecord | None, grown: Samples | None, seconds: float) -> WorkerRow:
    row = partial(WorkerRow, worker=record.worker_id, role=record.role, state=record.state)
    stats = record.stats
    if record.role == "router":
        requests = None if grown is None else sum(_sum(grown, name) for name in REQUESTS) / seconds
        return row(requests_per_s=requests)
    if record.role == "expert":
        return row(experts=record.loaded, busy=None if grown is None else min(1.0, _sum(grown, BUSY) / seconds))
    if grown is not None:
        tokens: float | None = _sum(grown, TOKENS) / seconds
        zero, choices = grown.get((CHOICES, "zero"), 0.0), _sum(grown, CHOICES)
        exposed, trip, steps = _sum(grown, EXPOSED), _sum(grown, ROUND_TRIP), _sum(grown, STEPS)
    else:  # the lease alone: shares since the worker's start, tokens counted once a second
        same = older is not None and older.boot_id == record.boot_id
        tokens = _difference(older, record, "generation_tokens") / seconds if same and older else None
        zero, choices = stats.get("zero_share", 0.0), 1.0
        exposed, trip, steps = stats.get("exposed_s_per_layer", 0.0), stats.get("round_trip_s_per_layer", 0.0), 0.0
    total = stats.get("kv_pages_total", 0.0)
    return row(
        tokens_per_s=tokens,
        running=int(stats.get("running", 0)),
        waiting=int(stats.get("waiting", 0)),
        kv_usage=stats.get("kv_pages_used", 0.0) / total if total else None,
        zero_share=zero / choices if choices else None,
        exposed_ms=exposed / steps * 1e3 if steps else None,
        exposed_share=exposed / trip if trip else None,
    )


def _difference(older: WorkerRecord, record: WorkerRecord, name: str) -> float:
    return max(0.0, record.stats.get(name, 0.0) - older.stats.get(name, 0.0))


def _grown(before: Reading, now: Reading, record: WorkerRecord) -> Samples | None:
    """By how much each sample of a worker's page has grown; None if it could not be read twice."""
    pages = before.pages.get(record.worker_id), now.pages.get(record.worker_id)
    if pages[0] is None or pages[1] is None:
        return None
    restarted = any(pages[1].get(key, 0.0) < value for key, value in pages[0].items() if key[0].endswith("_total"))
    older: Samples = {} if restarted else pages[0]
    return {key: value - older.get(key, 0.0) for key, value in pages[1].items()}


def _histogram(pages: Iterable[Samples | None], name: str) -> list[tuple[float, float]]:
    """The buckets of all pages together, by their bound."""
    found: dict[float, float] = {}
    for page in pages:
        for (sample, bound), count in (page or {}).items():
            if sample == f"{name}_bucket":
                found[float(bound)] = found.get(float(bound), 0.0) + count
    return sorted(found.items())


def _sum(page: Samples, name: str) -> float:
    return sum(value for (sample, _), value in page.items() if sample == name)
