"""The cluster's state as the page reads it each second: pure, and compact enough for hundreds of workers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from services.membership.overview import Overview
from services.membership.record import LAYER_NUMBERS, WorkerRecord
from services.membership.worker_order import ordinal

FIELDS = ("id", "role", "state", "boot", "epoch", "loaded", "capacity", "host", "metrics", "numerics")
# What workers count, by role; the page knows which are sums and takes their differences.
COUNTS = {
    "router": ("leading",),
    "attention": (
        "running",
        "waiting",
        "kv_pages_used",
        "kv_pages_total",
        "zero_share",
        "exposed_s_per_layer",
        "round_trip_s_per_layer",
        "prompt_tokens",
        "generation_tokens",
        "preemptions",
    ),
    "expert": ("launches", "calls", "rows", "assignments", "rejected"),
}
SHORT_BOOT = 8  # characters that tell one start of a worker from the next


def state_of(overview: Overview) -> dict[str, Any]:
    """Returns the JSON object of a state: workers are rows of FIELDS, then of their role's COUNTS."""
    ordered = sorted(overview.workers, key=lambda record: (record.role, ordinal(record.worker_id)))
    return {
        "epoch": overview.epoch,
        "leader": overview.leader,
        "warning": overview.warning,
        "not_ready": overview.not_ready_reason,
        "desired": overview.desired,
        "fields": FIELDS,
        "counts": COUNTS,
        "workers": [_row(record) for record in ordered],
        "layers": layer_means(record for record in ordered if record.role == "attention"),
    }


def _row(record: WorkerRecord) -> list[Any]:
    stats = record.stats
    return [
        record.worker_id,
        record.role,
        record.state,
        record.boot_id[:SHORT_BOOT],
        record.epoch,
        record.loaded,
        record.capacity,
        record.host,
        record.metrics_address,
        record.numerics_class,
        *(_short(stats.get(name, 0.0)) for name in COUNTS[record.role]),
    ]


def _short(value: float) -> float:
    """A number in few characters: whole where it is, else to seven digits after the point."""
    return int(value) if value == int(value) else round(value, 7)


def layer_means(records: Iterable[WorkerRecord]) -> dict[str, list[float]]:
    """Returns the means of LAYER_NUMBERS by layer, over the attention workers that have run steps; each counts once."""
    having = [record.layers for record in records if record.layers]
    depth = max((len(each.get(LAYER_NUMBERS[0], ())) for each in having), default=0)
    found = {}
    for name in LAYER_NUMBERS:
        lists = [each[name] for each in having if len(each.get(name, ())) == depth]
        digits = 3 if name == "zero_share" else 1
        found[name] = [round(sum(values) / len(lists), digits) for values in zip(*lists, strict=True)]
    return found
